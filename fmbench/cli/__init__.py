"""The command line: parse, call, print. Nothing here computes; heavy imports wait for the command that needs them."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import fmbench
from fmbench.cli import boards, comparing, hub, listing, running, sampling, scoring, timing, training
from fmbench.cli.shared import FAILED, USAGE, UsageError
from fmbench.registry import UnknownName
from fmbench.storage.readers import one_line


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    # No abbreviations anywhere: `run --seed 3` would be taken for `--seed-set 3`.
    top = argparse.ArgumentParser(
        prog="fmbench", description="Model zoo and evaluation benchmark for flow matching.", allow_abbrev=False
    )
    top.add_argument("--version", action="version", version=f"fmbench {fmbench.__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(
        name: str, call: Callable[[argparse.Namespace], int], text: str, to: Any = commands
    ) -> argparse.ArgumentParser:
        p = to.add_parser(name, help=text, description=text[:1].upper() + text[1:] + ".", allow_abbrev=False)
        p.add_argument("--json", action="store_true", help="machine-readable output")
        p.add_argument("--debug", action="store_true", help="show the traceback of an error")
        p.set_defaults(call=call)
        return p

    for part in (listing, hub, sampling, running, timing, scoring, comparing, training):
        part.add(add)
    boards.add(add, commands)
    hub.add_bundle(add, commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed, 2 wrong usage."""
    args = parser().parse_args(argv)
    with tracebacks(args.debug):
        return _run(args)


@contextmanager
def tracebacks(wanted: bool) -> Iterator[None]:
    """With ``--debug``, the traceback of every failure of a model or plug-in that became one line goes to standard error."""
    if not wanted:
        yield
        return
    log, shown = logging.getLogger("fmbench"), logging.StreamHandler()
    level = log.level
    log.addHandler(shown)
    log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(shown)


def _run(args: argparse.Namespace) -> int:
    try:
        return args.call(args)
    except KeyboardInterrupt:
        code, message = 130, "interrupted; run the same command again to continue"
    except BrokenPipeError:
        # The reader has seen enough (`fmbench list | head`); Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        if args.debug:
            raise
        code = USAGE if isinstance(error, (UsageError, UnknownName)) else FAILED
        known = isinstance(error, (ValueError, OSError, RuntimeError, ImportError))
        message = (known and str(error)) or one_line(error)
    print(f"fmbench: {' '.join(message.split())}", file=sys.stderr)
    return code
