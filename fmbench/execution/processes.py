"""Execution of orders in processes of this machine: each a fresh interpreter with its own threads, isolated from the others.

The processes are started as programs, not by ``multiprocessing``: that would import the caller's own script again in each of them, and pickle.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import wait
from typing import Any

from fmbench.execution.executor import Done, Report, Work, nothing
from fmbench.execution.worker import INTERRUPTED

GRACE = 5.0
"""Seconds that a process has to end after the request, before it is killed."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that numerical libraries read when they are loaded."""
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[3]); descriptor, debug = map(int, sys.argv[1:3]); del sys.argv[1:]; "
    "from fmbench.execution.worker import main; main(descriptor, bool(debug))"
)
log = logging.getLogger(__name__)


class _Worker:
    """One process, and the index of the order that it carries out (None when it is idle)."""

    def __init__(self, threads: int) -> None:
        self.order: int | None = None
        self.ready = False
        self._rest = b""
        self.socket, theirs = socket.socketpair()
        debug = int(log.isEnabledFor(logging.DEBUG))
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, str(theirs.fileno()), str(debug), json.dumps(sys.path)],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                # Ctrl-C is for this process, which tells the others.
                process_group=0,
                env={**os.environ, **dict.fromkeys(THREADS, str(threads))},
            )

    def give(self, index: int, name: str, order: Any) -> None:
        """Hand it an order. A process that has just died is found out when its socket is read."""
        self.order = index
        try:
            self.socket.sendall(json.dumps({"call": name, "order": order}, allow_nan=False).encode() + b"\n")
        except OSError:
            return

    def answers(self) -> list[dict[str, Any]] | None:
        """The answers received since the last call; None when the process has ended."""
        try:
            data = self.socket.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def end(self, grace: float = GRACE) -> int:
        """Close the socket, kill the process if it has not ended after ``grace`` seconds, and return its exit code."""
        self.socket.close()
        try:
            return self.process.wait(grace)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def death(code: int) -> str:
    """The meaning of the exit code of a process that ended before its work was done, in one line."""
    if code >= 0:
        return f"its process ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    if -code == signal.SIGKILL:
        return f"its process was killed ({name}), most often because memory ran out; fewer --workers need less"
    return f"its process was ended by {name}"


class _Map:
    """The state of one :meth:`Processes.map`: waiting orders and outcomes."""

    def __init__(self, name: str, orders: Sequence[Any], report: Report, finished: Report) -> None:
        self.name, self.orders, self.report, self._finished = name, orders, report, finished
        self.waiting = deque(range(len(orders)))
        self.found: dict[int, Done] = {}

    @property
    def unfinished(self) -> bool:
        """Whether an order has no outcome yet."""
        return len(self.found) < len(self.orders)

    def settle(self, worker: _Worker, done: Done) -> None:
        """Record the outcome of the order of a worker."""
        assert worker.order is not None
        self.found[worker.order] = done
        worker.order = None
        self._finished(len(self.found))

    def take(self, worker: _Worker, answer: dict[str, Any]) -> None:
        """Act on one answer. Raises what :meth:`~fmbench.execution.executor.Executor.map` raises."""
        ((kind, content),) = answer.items()
        if kind == "ready":
            worker.ready = True
        elif kind == "report":
            self.report(*content)
        elif kind == "log":
            log.debug("%s", content)
        elif kind == "interrupted":
            raise KeyboardInterrupt
        elif kind == "failed":
            raise (OSError if content[0] == "OSError" else RuntimeError)(content[1])
        else:
            self.settle(worker, Done(content) if kind == "value" else Done(error=content))


class Processes:
    """Carries out orders in processes that are started when they are first needed and stay until the context ends.

    Attributes:
        workers: how many processes.
        threads: of torch and its libraries in each.
    """

    def __init__(self, workers: int, threads: int = 1) -> None:
        self.workers, self.threads = workers, threads
        self._workers: list[_Worker] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def end(self) -> None:
        """End all processes; those that do not end within :data:`GRACE` seconds are killed."""
        for worker in self._workers:
            worker.socket.close()
        until = time.monotonic() + GRACE
        for worker in self._workers:
            worker.end(max(0.0, until - time.monotonic()))
        self._workers = []

    def map(
        self, function: Work, orders: Sequence[Any], report: Report = nothing, finished: Report = nothing
    ) -> list[Done]:
        """See :meth:`~fmbench.execution.executor.Executor.map`. A process that dies is replaced."""
        work = _Map(f"{function.__module__}:{function.__qualname__}", orders, report, finished)
        try:
            while work.unfinished:
                self._hand_out(work)
                self._hear(work)
        except BaseException:
            self.end()
            raise
        return [work.found[index] for index in range(len(orders))]

    def _hear(self, work: _Map) -> None:
        """Wait for the answer of a process, and act on it."""
        busy = {worker.socket: worker for worker in self._workers if worker.order is not None}
        for worker in [busy[link] for link in wait(list(busy)) if isinstance(link, socket.socket)]:
            answers = worker.answers()
            if answers is None:
                self._bury(worker, work)
            for answer in answers or ():
                work.take(worker, answer)

    def _hand_out(self, work: _Map) -> None:
        """Give an order to every idle process, and start those that are missing."""
        while work.waiting:
            worker = next((one for one in self._workers if one.order is None), None)
            if worker is None:
                if len(self._workers) == self.workers:
                    return
                worker = _Worker(self.threads)
                self._workers.append(worker)
            index = work.waiting.popleft()
            worker.give(index, work.name, work.orders[index])

    def _bury(self, worker: _Worker, work: _Map) -> None:
        """Record the death of a process. Raises RuntimeError for one that never started, KeyboardInterrupt for one interrupted."""
        self._workers.remove(worker)
        code = worker.end()
        if code in (INTERRUPTED, -signal.SIGINT):
            raise KeyboardInterrupt
        if not worker.ready:
            raise RuntimeError(f"a worker could not be started: {death(code)}; --workers 1 needs none")
        work.settle(worker, Done(error=death(code), died=True))
