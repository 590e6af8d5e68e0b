"""Results as a data frame hold every number once, and a comparison says what the tables say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from results_factory import estimate, result, row

import fmbench
from fmbench.cli import main
from fmbench.records.frames import COLUMNS, frame
from fmbench.records.result import Estimate, Result
from fmbench.report.csv import records
from fmbench.report.reading import read_results
from fmbench.storage.bundled import data_folder


def seeded(level: float, seed: int) -> Estimate:
    values = (level + 0.01 * np.random.default_rng(seed).normal(size=5)).tolist()
    mean = float(np.mean(values))
    return Estimate(mean, (mean - 0.02, mean + 0.02), 5000, details={"per_seed": values}, replicates=tuple(values))


def entry(name: str, level: float, seed: int = 0) -> Result:
    return result(name, (row(100, {"wasserstein2": seeded(level, seed)}),))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for one in (entry("good", 1.0), entry("bad", 2.0, 1), entry("like-bad", 2.0, 2)):
        one.save(tmp_path / "results")
    return tmp_path


def test_every_number_of_the_committed_results_is_there_once() -> None:
    found = read_results(data_folder("leaderboard") / "results").results[:12]
    table = frame(found)
    assert list(table.columns) == list(COLUMNS)
    told = [one for r in found for one in records(r) if not str(one["metric"]).startswith(("latency", "throughput"))]
    rows = table[~table.metric.str.startswith(("latency", "throughput"))]
    assert len(rows) == len(told)
    assert rows["value"].tolist() == pytest.approx(
        [np.nan if o.get("value") is None else o["value"] for o in told], nan_ok=True
    )
    assert not rows[rows.value.isna()].reason.eq("").any(), "a number that is missing says why"
    assert not table.duplicated(
        ["benchmark", "task", "entry", "training", "solver", "steps", "guidance", "metric"]
    ).any()


def test_types_allow_arithmetic_and_missing_counts() -> None:
    failed = result("broken", (row(None, {"wasserstein2": Estimate.missing("diverged")}, failed="NaN"),))
    table = frame([entry("fine", 1.0), failed])
    assert table["value"].dtype == "float64" and str(table["steps"].dtype) == "Int64"
    assert table[table.entry == "broken"].reason.tolist()[0] == "failed: NaN"
    assert pd.isna(table[table.entry == "broken"].steps.iloc[0])
    assert frame([]).empty and list(frame([]).columns) == list(COLUMNS)


def test_a_training_is_told_apart_from_its_entry() -> None:
    table = frame([entry("mine", 1.0), entry("mine@2", 1.1)])
    assert set(zip(table.entry, table.training, strict=True)) == {("mine", 0), ("mine", 2)}


def test_sources(folder: Path) -> None:
    assert set(fmbench.results(folder).entry) == {"good", "bad", "like-bad"}
    assert set(fmbench.results(str(folder / "results")).entry) == {"good", "bad", "like-bad"}
    assert set(fmbench.results("digits").benchmark) == {"digits"}
    for source, words in (
        ("nowhere", "neither a folder nor a benchmark"),
        (folder / "results" / "transport-2d" / "x", "neither"),
    ):
        with pytest.raises(ValueError, match=words):
            fmbench.results(source)
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no results"):
        fmbench.results(folder / "empty")


def test_a_comparison_says_which_is_better_and_whether_that_is_beyond_doubt(folder: Path) -> None:
    task = "gaussian-8gaussians"
    clear = fmbench.compare(f"{task}/bad", f"{task}/good", "transport-2d", folder)
    assert clear.verdict.startswith(f"{task}/good is better than {task}/bad by W2 @100, beyond doubt")
    alike = fmbench.compare(f"{task}/bad", f"{task}/like-bad", "transport-2d", folder)
    assert "are not separated by W2 @100" in alike.verdict
    assert alike.table["beyond doubt"].tolist() == ["no"]
    assert "<table" in clear._repr_html_() and repr(clear).startswith(clear.verdict)
    with pytest.raises(ValueError, match="has no result of gaussian-8gaussians/none; of its task there are"):
        fmbench.compare(f"{task}/none", f"{task}/good", "transport-2d", folder)


def test_other_names_are_compared_too_and_markup_is_escaped() -> None:
    found = fmbench.compare("digits/rf-1", "digits/ot-cfm", "digits")
    assert "digits/rf-1" in found.verdict
    hostile = result("<b>", (row(8, {"wasserstein2": estimate(1.0, 0.1)}),), model={"name": "gaussian-8gaussians/<b>"})
    assert "<b>" not in hostile._repr_html_()


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = "gaussian-8gaussians"
    line = ["compare", f"{task}/good", f"{task}/bad", "--benchmark", "transport-2d", "--results", str(folder)]
    assert main(line) == 0 and "beyond doubt" in capsys.readouterr().out
    assert main([*line, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"][0]["better"] == f"{task}/good"
    assert main(["compare", "a/b", "a/c", "--benchmark", "transport-2d", "--results", str(folder)]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
