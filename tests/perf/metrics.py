"""Speed and memory of each metric beside its peer, in one run: ``python tests/perf/metrics.py [--only frechet]``.

Prints markdown tables at the end, or JSON with ``--json``; what it is doing goes to stderr. Not a test: nothing here passes
or fails. ``ratio`` is theirs over ours, so above 1 ours is faster. Threads are those of the environment
(``OMP_NUM_THREADS``); the first line says which.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from case import Case
from control_variates import Gain, gains
from feature_cases import FEATURE_CASES
from measuring import CLOCKS, compare, exponent, extra_bytes, extra_bytes_in_a_fresh_process
from transport_cases import TRANSPORT_CASES

CASES: dict[str, Case] = {**FEATURE_CASES, **TRANSPORT_CASES}
CONTROLS = "control-variates"
CONTROL_SIZES = {"small": (200, (2, 16)), "medium": (1000, (2, 16, 128))}
TIMES = ("metric", "peer", "n", "d", "ours ms", "peer ms", "ratio", "range", "difference", "ours MB", "peer MB")
GROWTH = ("metric", "whose", "in n", "in d")
GAINS = ("control", "n", "d", "variance ratio", "cost ratio", "gain at equal cost")


@dataclass(frozen=True)
class Row:
    """One metric, peer and size; ``problem`` says why a peer has no numbers. Seconds, bytes, relative difference of values (absolute from 0)."""

    metric: str
    peer: str
    n: int
    d: int
    ours: float | None = None
    theirs: float | None = None
    ratio: float | None = None
    least: float | None = None
    most: float | None = None
    difference: float | None = None
    ours_bytes: int | None = None
    theirs_bytes: int | None = None
    problem: str | None = None


def one(name: str, peer: str, n: int, d: int, repeat: int, clock: str, memory: Callable[[str], int | None]) -> Row:
    """Compare at one size. A peer that is missing or does not converge leaves a row that says so."""
    print(f"{name} beside {peer} at n = {n}, d = {d}", file=sys.stderr)
    case = CASES[name]
    inputs = case.make(n, d)
    ours, theirs = case.ours, case.peers[peer]
    try:
        expected, value = ours(inputs), theirs(inputs)
    except (ImportError, RuntimeError, TypeError, UserWarning) as error:
        return Row(name, peer, n, d, problem=f"{type(error).__name__}: {error}".splitlines()[0][:90])
    timed = compare(lambda: ours(inputs), lambda: theirs(inputs), repeat, clock)
    return Row(
        name,
        peer,
        n,
        d,
        **asdict(timed),
        difference=(value - expected) / abs(expected) if expected else abs(value),
        ours_bytes=memory("ours"),
        theirs_bytes=memory(peer),
    )


def rows_of(name: str, sizes: str, repeat: int, clock: str, memory: bool, peer: str | None) -> list[Row]:
    """All sizes and peers of one metric; memory at the largest size only, each side once."""
    case = CASES[name]
    points = case.sizes[sizes].points
    seen: dict[str, int | None] = {}

    def extra(side: str) -> int | None:
        if side not in seen:
            seen[side] = extra_bytes_in_a_fresh_process(Path(__file__), name, side, *points[-1])
        return seen[side]

    return [
        one(name, p, n, d, repeat, clock, extra if memory and (n, d) == points[-1] else lambda side: None)
        for p in case.peers
        if peer in (None, p)
        for n, d in points
    ]


def growth(rows: Sequence[Row], sizes: str) -> list[tuple[str, str, float | None, float | None]]:
    """Exponents in n (at the first dimension) and in d (at the last n) of ours and of every peer."""
    found: dict[tuple[str, str], tuple[str, str, float | None, float | None]] = {}
    for row in rows:
        mine = [r for r in rows if (r.metric, r.peer) == (row.metric, row.peer) and r.ours is not None]
        plan = CASES[row.metric].sizes[sizes]
        for whose, seconds in (("ours", "ours"), (row.peer, "theirs")):
            in_n = [(r.n, getattr(r, seconds)) for r in mine if r.d == plan.ds[0]]
            in_d = [(r.d, getattr(r, seconds)) for r in mine if r.n == plan.ns[-1]]
            slopes = [exponent([s for s, _ in pairs], [t for _, t in pairs]) for pairs in (in_n, in_d)]
            found.setdefault((row.metric, whose), (row.metric, whose, slopes[0], slopes[1]))
    return list(found.values())


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float | None, form: str) -> str:
    """A formatted number, a dash for none."""
    return "-" if value is None else format(value, form)


def cells(row: Row) -> list[str]:
    """One line of the table of times."""
    start = [row.metric, row.peer, str(row.n), str(row.d)]
    if row.problem is not None:
        return [*start, *["-"] * 4, row.problem, "-", "-"]
    milli = [number(1e3 * s, ".3g") for s in (row.ours, row.theirs) if s is not None]
    spread = f"{number(row.least, '.2f')} to {number(row.most, '.2f')}"
    mega = [number(None if b is None else b / 1e6, ".1f") for b in (row.ours_bytes, row.theirs_bytes)]
    return [*start, *milli, number(row.ratio, ".2f"), spread, number(row.difference, ".0e"), *mega]


def gain_cells(g: Gain) -> list[str]:
    """One line of the table of control variates."""
    return [g.control, str(g.n), str(g.d), f"{g.variance:.1f}", f"{g.cost:.2f}", f"{g.gain:.1f}"]


def setting(repeat: int, clock: str) -> dict[str, Any]:
    """Where and how this run was made."""
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "python": platform.python_version(),
        "clock": clock,
        "pairs": repeat,
    }


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=[*CASES, CONTROLS], action="append", help="a metric; may be repeated")
    parser.add_argument("--peer", help="one peer instead of all")
    parser.add_argument("--sizes", choices=["small", "medium"], default="small")
    parser.add_argument("--repeat", type=int, default=5, help="interleaved pairs")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="no fresh processes for peak memory")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory-of", nargs=4, metavar=("METRIC", "SIDE", "N", "D"), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def memory_of(name: str, side: str, n: int, d: int) -> int:
    """Extra bytes of one side of a case in this process, which should be a fresh one."""
    call = CASES[name].side(side)
    call(CASES[name].make(40, 4))  # imports are not the metric's memory
    inputs = CASES[name].make(n, d)
    return extra_bytes(lambda: call(inputs))


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, measure, print."""
    args = parsed(argv)
    if args.memory_of:
        name, side, n, d = args.memory_of
        print(memory_of(name, side, int(n), int(d)))
        return
    names = args.only or [*CASES, CONTROLS]
    options = (args.sizes, args.repeat, args.clock, args.memory, args.peer)
    rows = [row for name in names if name in CASES for row in rows_of(name, *options)]
    n, dimensions = CONTROL_SIZES[args.sizes]
    shown = gains(n, dimensions, args.repeat, args.clock) if CONTROLS in names else []
    exponents = growth(rows, args.sizes)
    if args.json:
        record = {"setting": setting(args.repeat, args.clock), "rows": [asdict(r) for r in rows]}
        print(json.dumps({**record, "growth": exponents, CONTROLS: [asdict(g) for g in shown]}, indent=1))
        return
    print("; ".join(f"{k} {v}" for k, v in setting(args.repeat, args.clock).items()))
    if rows:
        lines = [[m, whose, number(n, ".2f"), number(d, ".2f")] for m, whose, n, d in exponents]
        print("\n" + markdown(TIMES, [cells(r) for r in rows]) + "\n\n" + markdown(GROWTH, lines))
    if shown:
        print("\n" + markdown(GAINS, [gain_cells(g) for g in shown]))


if __name__ == "__main__":
    main()
