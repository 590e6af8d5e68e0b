"""The command line: parse, call, print. Nothing here computes; heavy imports wait for the command that needs them."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import fmbench
from fmbench.cli import boards, listing, running, sampling, scoring, training
from fmbench.cli.shared import FAILED, USAGE, UsageError
from fmbench.registry import UnknownName


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(prog="fmbench", description="Model zoo and evaluation benchmark for flow matching.")
    top.add_argument("--version", action="version", version=f"fmbench {fmbench.__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(
        name: str, call: Callable[[argparse.Namespace], int], text: str, to: Any = commands
    ) -> argparse.ArgumentParser:
        p = to.add_parser(name, help=text, description=text[:1].upper() + text[1:] + ".")
        p.add_argument("--json", action="store_true", help="machine-readable output")
        p.add_argument("--debug", action="store_true", help="show the traceback of an error")
        p.set_defaults(call=call)
        return p

    for part in (listing, sampling, running, scoring, training):
        part.add(add)
    boards.add(add, commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed, 2 wrong usage."""
    args = parser().parse_args(argv)
    try:
        return args.call(args)
    except KeyboardInterrupt:
        code, message = 130, "interrupted; run the same command again to continue"
    except BrokenPipeError:
        # The reader has seen enough (`fmbench list | head`); Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if args.debug:
            raise
        code = USAGE if isinstance(error, (UsageError, UnknownName)) else FAILED
        message = str(error) or type(error).__name__
    print(f"fmbench: {' '.join(message.split())}", file=sys.stderr)
    return code
