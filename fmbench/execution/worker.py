"""A worker process of :mod:`fmbench.execution.processes`: takes orders from a socket, a line of JSON each, and answers in the same way.

Orders ``{call, order}``; answers ``{ready}``, ``{report}``, ``{log}``, and for every order one of ``{value}``, ``{refused}`` (a line),
``{failed}`` (kind and line), ``{interrupted}``. The end of the socket is the end of the process, whatever it is doing.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import queue
import signal
import socket
import sys
import threading
from typing import Any

from fmbench.execution.executor import Report, attempted
from fmbench.storage.readers import one_line

INTERRUPTED = 130
"""Exit code of a process that was interrupted."""


class _Link:
    """The socket, and whether an order is being carried out."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.busy = connection, False
        self.orders: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._lock = threading.Lock()

    def send(self, **answer: Any) -> None:
        """Send one answer. Raises KeyboardInterrupt when nobody is there to take it."""
        line = json.dumps(answer, allow_nan=False).encode() + b"\n"
        try:
            with self._lock:
                self.connection.sendall(line)
        except OSError:
            raise KeyboardInterrupt from None

    def listen(self) -> None:
        """Queue the orders as they come, and interrupt the work when there is nobody any more who waits for it."""
        try:
            with self.connection.makefile("r") as lines:
                for line in lines:
                    self.orders.put(json.loads(line))
        except OSError:
            pass
        self.orders.put(None)
        if self.busy:
            # The way of Ctrl-C: what is being written is cleaned up.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


class _Forward(logging.Handler):
    """Passes log records on as text, tracebacks included."""

    def __init__(self, link: _Link) -> None:
        super().__init__()
        self.link = link

    def emit(self, record: logging.LogRecord) -> None:
        self.link.send(log=self.format(record))


def _function(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _answer(message: dict[str, Any], report: Report) -> dict[str, Any]:
    """What an order came to."""
    try:
        done = attempted(_function(message["call"]), message["order"], report)
        json.dumps(done.value, allow_nan=False)
    except KeyboardInterrupt:
        return {"interrupted": True}
    except BaseException as error:
        logging.getLogger(__name__).debug("%s", one_line(error), exc_info=error)
        known = isinstance(error, OSError)
        return {"failed": ["OSError" if known else "RuntimeError", (known and str(error)) or one_line(error)]}
    return {"value": done.value} if done.error is None else {"refused": done.error}


def _serve(link: _Link) -> int:
    """Carry out orders until there are no more; returns the exit code."""
    try:
        link.send(ready=True)
        while (message := link.orders.get()) is not None:
            link.busy = True
            link.send(**_answer(message, lambda *news: link.send(report=news)))
            link.busy = False
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def main(descriptor: int, debug: bool) -> None:
    """Serve the socket of a file descriptor until its end. ``debug`` sends what is logged at that level."""
    # A run that was started in the background (nohup ... &) hands down that interrupts are ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    link = _Link(socket.socket(fileno=descriptor))
    if debug:
        log = logging.getLogger("fmbench")
        log.setLevel(logging.DEBUG)
        log.addHandler(_Forward(link))
    threading.Thread(target=link.listen, daemon=True).start()
    if code := _serve(link):
        # At once: the thread that listens may be about to interrupt what Python does at its end.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
