"""Isolation of code from outside (models, method files, plug-ins), which may raise anything and change any state of the process."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from fmbench.execution.isolation import isolated, steady
from fmbench.storage.readers import first_line, one_line

__all__ = ["ForeignError", "foreign", "isolated", "said", "steady"]
LONGEST = 500
"""Characters of a message that are shown: some errors carry the whole input."""
log = logging.getLogger(__name__)
"""Logs, at level DEBUG, the traceback of every error reduced to one line; ``--debug`` shows it."""


class ForeignError(ValueError):
    """Code from outside failed; the message is one line, the error itself is the cause."""


def _is_refusal(error: BaseException) -> bool:
    """Whether an error is a ValueError raised by fmbench itself, whose message is shown as it is."""
    if isinstance(error, ForeignError):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raiser = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    return isinstance(error, ValueError | FileNotFoundError) and str(raiser).startswith("fmbench.")


def said(error: BaseException) -> str:
    """An error as one printable line: the message of fmbench's own errors, else type and message. Never raises."""
    try:
        text = first_line(error) if _is_refusal(error) else one_line(error)
    except BaseException:  # str() of a foreign error is foreign code too
        text = type(error).__name__
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."


@contextmanager
def foreign(what: str = "") -> Iterator[None]:
    """Context in which any exception becomes a :class:`ForeignError` of one line, after ``what`` and a colon where given.

    Only KeyboardInterrupt passes: a model that calls ``sys.exit`` or runs out of memory must not end the run of the others. Errors of fmbench
    itself, and a ForeignError from deeper inside, keep their message.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        line = said(error)
        log.debug("%s", f"{what}: {line}" if what else line, exc_info=error)
        raise ForeignError(f"{what}: {line}" if what else line) from error
