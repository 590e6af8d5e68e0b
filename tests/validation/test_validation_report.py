"""The report as a whole: every metric has rows, all within tolerance; wrong metrics are caught; the tables are well formed."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import re
from functools import cache
from pathlib import Path

import pytest

import fmbench
from fmbench import validation
from fmbench.records.metric import METRICS
from fmbench.registry import UnknownName
from fmbench.validation.check import Check, exact, failed, unvalidated

NOT_METRICS = {"__init__", "base", "evidence", "legacy", "nodes", "reference", "trajectories"}
QUICK = (
    "precision", "recall", "density", "coverage", "mode_weights_error", "authenticity", "near_copies", "inception_score",
    "straightness", "path_energy", "normalized_path_energy", "transport_cost", "truncation_gap", "round_trip_error",
    "bits_per_dimension",
)  # fmt: skip


@cache
def checks_of(name: str) -> tuple[Check, ...]:
    return tuple(validation.run([name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", validation.names())
def test_every_check_is_within_its_tolerance(name: str) -> None:
    checks = checks_of(name)
    assert checks and all(check.metric == name for check in checks)
    assert len({check.case for check in checks}) == len(checks), "two cases of one metric share a name"
    assert not [check for check in checks if check.passed is False]


def test_every_registered_metric_has_rows() -> None:
    assert set(METRICS) <= set(validation.names())


def test_every_metric_module_is_used_by_a_case() -> None:
    used = {METRICS[name].resolve().__module__.rpartition(".")[2] for name in METRICS}
    for path in (Path(fmbench.__file__).parent / "validation").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fmbench.metrics"):
                used |= {(node.module or "").rpartition(".")[2], *(alias.name for alias in node.names)}
    modules = {path.stem for path in (Path(fmbench.__file__).parent / "metrics").glob("*.py")}
    assert modules - NOT_METRICS <= used | set(validation.names())


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_factor_of_1_1_could_not_hide_in_the_tolerances(name: str) -> None:
    sharp = [c for c in checks_of(name) if c.tolerance is not None and 0 < c.tolerance < 0.05 * abs(c.expected or 0)]
    assert sharp


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_metric_that_is_wrong_by_a_factor_of_1_1_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target, _, attribute = METRICS[name].measure.partition(":")
    module = importlib.import_module(target)
    right = getattr(module, attribute)

    def wrong(context: object) -> object:
        estimate = right(context)
        return dataclasses.replace(estimate, value=None if estimate.value is None else 1.1 * estimate.value)

    monkeypatch.setattr(module, attribute, wrong)
    assert any(check.passed is False for check in validation.run([name]))


def test_a_metric_that_raises_is_a_failed_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken():
        yield exact("nfe", "before", 1.0, 1.0, "")
        raise ArithmeticError("no convergence")

    monkeypatch.setitem(validation.CASES, "nfe", broken)
    checks = validation.run(["nfe"])
    assert [check.passed for check in checks] == [True, False]
    assert checks[1].note == "ArithmeticError: no convergence"
    assert validation.to_json(checks)["passed"] is False


@pytest.mark.slow
def test_runs_are_identical_and_report_their_progress() -> None:
    seen: list[tuple[str, int, int]] = []
    chosen = ["nfe", "authenticity"]
    first = validation.run(chosen, lambda *step: seen.append(step))
    assert first == validation.run(chosen[::-1])
    assert seen == [("authenticity", 0, 2), ("nfe", 1, 2), ("done", 2, 2)]


def test_an_unknown_metric_is_named() -> None:
    with pytest.raises(UnknownName, match="wasserstein3"):
        validation.run(["wasserstein3"])


ROWS = [
    exact("m", "a | b", 1.0, 1.0, "E|x|^2 is _known_\nhere"),
    exact("m", "wrong", 1.0, float("nan"), ""),
    failed("m", ValueError("<b>")),
    unvalidated("n", "no closed form"),
]


def test_markdown_is_a_table_of_equal_rows() -> None:
    text = validation.to_markdown([*ROWS, *checks_of("nfe")])
    assert text.endswith("|\n")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(ROWS) + len(checks_of("nfe"))
    assert {len(re.split(r"(?<!\\)\|", line)) for line in table} == {11}


def test_markdown_renders_to_the_same_texts() -> None:
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    html = markdown.render(validation.to_markdown(ROWS))
    assert html.count("<tr>") == 1 + len(ROWS)
    assert "E|x|^2 is _known_ here" in html and "&lt;b&gt;" in html and "<em>" not in html
    assert "2 metrics: 1 checks within tolerance, 2 outside, 1 metrics cannot be validated" in html


def test_json_is_plain_and_counts() -> None:
    made = validation.to_json(ROWS)
    again = json.loads(json.dumps(made, allow_nan=False))
    assert again["passed"] is False and len(again["checks"]) == len(ROWS)
    assert again["checks"][1]["got"] is None
    assert validation.to_json([ROWS[0], ROWS[3]])["passed"] is True
