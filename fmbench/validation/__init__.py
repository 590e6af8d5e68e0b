"""Every metric on cases with known answers: ``fmbench validate-metrics``.

A family of metrics is one module with a table ``CASES``: metric name -> a function that yields its checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from fmbench.registry import UnknownName, nearest
from fmbench.validation import cost, distribution, flows, jacobians, manifolds, transport
from fmbench.validation.check import Check, failed
from fmbench.validation.table import summary, to_json, to_markdown

__all__ = ["Check", "names", "run", "summary", "to_json", "to_markdown"]

FAMILIES = (distribution, manifolds, transport, flows, jacobians, cost)
CASES: dict[str, Callable[[], Iterator[Check]]] = {
    name: cases for family in FAMILIES for name, cases in family.CASES.items()
}
Report = Callable[[str, int, int], None]
"""Progress: (metric, done, total)."""


def names() -> list[str]:
    """The metrics that have a row, in the order of the report."""
    return list(CASES)


def _quiet(metric: str, done: int, total: int) -> None:
    """Report nothing."""


def _checks(name: str) -> list[Check]:
    """The checks of one metric; one that raises becomes a failed row after those it had already given."""
    made: list[Check] = []
    try:
        made.extend(CASES[name]())
    except Exception as error:
        made.append(failed(name, error))
    return made


def run(only: Sequence[str] | None = None, report: Report = _quiet) -> list[Check]:
    """Run the cases of all metrics, or of those named, in a fixed order with fixed seeds.

    Args:
        only: metric names from :func:`names`.
        report: called with (metric, done, total) before each metric and once at the end.

    Raises UnknownName for a name that has no cases. A metric that fails is a row, never an exception.
    """
    for name in only or ():
        if name not in CASES:
            raise UnknownName(nearest("metric", name, CASES))
    chosen = [name for name in CASES if only is None or name in only]
    checks: list[Check] = []
    for index, name in enumerate(chosen):
        report(name, index, len(chosen))
        checks += _checks(name)
    report("done", len(chosen), len(chosen))
    return checks
