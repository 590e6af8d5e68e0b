"""fmbench beside what a user would do without it, in turns: ``python tests/perf/peers.py [--quick] [--only sampling]``.

    core       the core numbers of digits/cfm by ``fmbench.evaluate`` and by an honest script (``script.py``)
    sampling   Euler steps by a bare loop, torchdiffeq, torchdyn, diffusers on the same network
    fid        from images to the Frechet distance by torchmetrics and clean-fid
    transport  exact W2 and the pairs of a batch by dimension: POT, scipy, torchcfm
    training   one step beside torchcfm's
    growth     exponents in n, in d and in the number of entries

Every line is one input: seconds of both (medians), theirs over ours (median and range of interleaved pairs; above 1 ours is faster), and by
how much the two answers differ, relative to the largest. A peer that is not installed leaves a line that says so. Not a test: nothing here
passes or fails. ``metrics.py`` compares the metrics alone.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence

import numpy as np
import torch
from measuring import CLOCKS, Comparison, compare, exponent
from peer_cases import GROUPS, Growth, Pairing, growths, quiet

GROWTH = "growth"
RANDOM = "training step"
"""Steps of training draw times of their own: their losses are not compared."""


def timed(pair: Pairing, repeat: int, clock: str) -> tuple[Comparison, np.ndarray, np.ndarray]:
    """Seconds and both answers. Long work is timed once, the answers being those of the timed calls."""
    if not pair.once:
        ours, theirs = (np.asarray(call(), dtype=np.float64) for call in (pair.ours, pair.theirs))
        return compare(pair.ours, pair.theirs, repeat, clock), ours, theirs
    answers, seconds = [], []
    for call in (pair.ours, pair.theirs):
        start = CLOCKS[clock]()
        answers.append(np.asarray(call(), dtype=np.float64))
        seconds.append(CLOCKS[clock]() - start)
    ratio = seconds[1] / seconds[0]
    return Comparison(seconds[0], seconds[1], ratio, ratio, ratio), answers[0], answers[1]


def line(pair: Pairing, repeat: int, clock: str) -> str:
    """One line of the table."""
    try:
        found, ours, theirs = quiet(lambda: timed(pair, repeat, clock))
    except ImportError as error:
        return f"| {pair.what} | {pair.peer} | {pair.input} | - | - | - | {error} |"
    apart = float(np.abs(ours - theirs).max()) / max(float(np.abs(theirs).max()), np.finfo(np.float64).tiny)
    shown = "-" if pair.what.startswith(RANDOM) else f"{apart:.0e}"
    spread = f"{found.ratio:.2f}" if pair.once else f"{found.ratio:.2f} ({found.least:.2f} to {found.most:.2f})"
    times = f"{1e3 * found.ours:.4g} | {1e3 * found.theirs:.4g}"
    return f"| {pair.what} | {pair.peer} | {pair.input} | {times} | {spread} | {shown} |"


def growth_line(growth: Growth, clock: str) -> str:
    """One line of the table of exponents; every size once, after the smallest went unmeasured."""
    growth.call(growth.sizes[0])
    seconds = []
    for size in growth.sizes:
        start, calls = CLOCKS[clock](), 0
        began = time.perf_counter()
        while calls == 0 or time.perf_counter() - began < 0.2:
            growth.call(size)
            calls += 1
        seconds.append((CLOCKS[clock]() - start) / calls)
    shown = ", ".join(f"{size:,}: {spent:.3g}" for size, spent in zip(growth.sizes, seconds, strict=True))
    return f"| {growth.what} | {shown} | {exponent(list(growth.sizes), seconds):.2f} |"


def main(words: Sequence[str] | None = None) -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes: about two minutes on one free core")
    parser.add_argument("--only", choices=[*GROUPS, GROWTH], action="append", help="a group; may be repeated")
    parser.add_argument("--repeat", type=int, default=None, help="interleaved pairs (default: 5, 3 with --quick)")
    parser.add_argument("--clock", choices=list(CLOCKS), default="cpu", help="processor seconds are steadier")
    args = parser.parse_args(words)
    repeat = args.repeat or (3 if args.quick else 5)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.clock} seconds, load {os.getloadavg()[0]:.1f}"
    )
    chosen = [name for name in (*GROUPS, GROWTH) if not args.only or name in args.only]
    if chosen != [GROWTH]:
        print(
            "| what | peer | input | ours ms | peer ms | peer / ours | difference |\n|---|---|---|---:|---:|---:|---:|"
        )
    for name in chosen:
        for pair in GROUPS[name](args.quick) if name in GROUPS else ():
            print(line(pair, repeat, args.clock), flush=True)
    if GROWTH in chosen:
        print("\n| what | seconds by size | exponent |\n|---|---|---:|")
        for growth in growths(args.quick):
            print(quiet(lambda growth=growth: growth_line(growth, args.clock)), flush=True)


if __name__ == "__main__":
    main()
