"""How much work a table takes: counted in interpreted instructions, which no machine and no load changes."""

import io
import sys

import pytest
from results_factory import estimate, result, row
from rich.console import Console

import fmbench
from fmbench.report.build import build_leaderboard
from fmbench.report.reading import read_results
from fmbench.report.terminal import print_results

PACKAGE = fmbench.__file__.rpartition("/")[0]
METRICS = ("wasserstein2", "sliced_wasserstein2", "sinkhorn_divergence")


def instructions(call):
    """Instructions of fmbench's own code that ``call`` runs."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def fill(folder, samplers):
    """Four entries with so many samplers, one of which failed with every fifth, and the anchor of real samples."""
    for place, entry in enumerate(("a", "b", "c", "d")):
        numbers = {name: estimate(1.0 + place, 0.1) for name in METRICS}
        rows = [
            row(k, {}, failed="NaN", p50=None) if entry == "d" and k % 5 == 0 else row(k, numbers)
            for k in range(1, samplers + 1)
        ]
        result(entry, tuple(rows)).save(folder / "results")
    data = row(None, numbers, "none", 0.0, p50=None)
    result("data", (data,), model={"division": "anchor"}).save(folder / "results")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["build", "print"])
def test_work_grows_like_the_number_of_rows(tmp_path, what):
    counted = []
    for samplers in (10, 20, 40):
        folder = tmp_path / str(samplers)
        fill(folder, samplers)
        results = read_results(folder / "results").results
        console = Console(file=io.StringIO(), width=100)
        calls = {
            "build": lambda folder=folder: build_leaderboard(folder),
            "print": lambda results=results, console=console: print_results(results, console),
        }
        calls[what]()  # what is loaded and cached once is not what is counted
        counted.append(instructions(calls[what]))
    # Twice as much for twice the rows; pairwise work would be four times as much.
    assert counted[2] - counted[1] < 2.2 * (counted[1] - counted[0])
