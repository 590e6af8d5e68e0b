"""The command that measures speed and memory of the metrics runs and prints its tables; no time is asserted."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(__file__).parent / "perf" / "metrics.py"
COLUMNS = ["metric", "peer", "n", "d", "ours ms", "peer ms", "ratio", "range", "difference", "ours MB", "peer MB"]
FRECHET = ["--only", "frechet", "--sizes", "small", "--repeat", "2", "--peer", "scipy sqrtm", "--no-memory"]


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.syspath_prepend(str(COMMAND.parent))
    main = runpy.run_path(str(COMMAND))["main"]

    def run(*words: str) -> str:
        main(words)
        return capsys.readouterr().out

    return run


@pytest.mark.slow
def test_tables_of_the_frechet_distance(printed) -> None:
    lines = [line.strip("| ").split(" | ") for line in printed(*FRECHET).splitlines() if line.startswith("|")]
    start = lines.index(COLUMNS)
    rows = [dict(zip(COLUMNS, line, strict=True)) for line in lines[start + 2 : start + 5]]
    assert [row["d"] for row in rows] == ["64", "128", "256"]
    for row in rows:
        least, most = map(float, row["range"].split(" to "))
        assert least <= float(row["ratio"]) <= most
        assert abs(float(row["difference"])) < 1e-10
    growth = lines[lines.index(["metric", "whose", "in n", "in d"]) + 2 :]
    assert [line[:3] for line in growth] == [["frechet", "ours", "-"], ["frechet", "scipy sqrtm", "-"]]
    assert all(float(line[3]) > 0 for line in growth)


@pytest.mark.slow
def test_json_says_how_it_was_measured(printed) -> None:
    record = json.loads(printed(*FRECHET, "--json", "--clock", "cpu"))
    assert (record["setting"]["clock"], record["setting"]["pairs"]) == ("cpu", 2)
    assert [row["ours_bytes"] for row in record["rows"]] == [None] * 3


@pytest.mark.slow
def test_memory_of_a_fresh_process_is_that_of_the_arrays() -> None:
    # Covariance factors, their product, the eigenvalue problem: a few (d, d) arrays of 2 MB.
    words = [sys.executable, str(COMMAND), "--memory-of", "frechet", "ours", "600", "512"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 2 * 2.1e6 < json.loads(done.stdout) < 15 * 2.1e6
