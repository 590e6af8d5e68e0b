"""Several trainings of an entry in a table: one row, a claim about the method, and an interval over both kinds of noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from results_factory import estimate, result, row

from fmbench.records.result import Estimate, Result
from fmbench.report.cells import estimate_cell
from fmbench.report.standings import standing
from fmbench.report.table import build
from fmbench.report.trainings import joined, joined_trainings

METRIC = "wasserstein2"


def seeded(values: list[float]) -> Estimate:
    """An estimate over evaluation seeds."""
    mean, half = float(np.mean(values)), 2.8 * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return Estimate(
        mean, (mean - half, mean + half), 1000 * len(values), details={"per_seed": values}, replicates=tuple(values)
    )


def entry(name: str, values: list[float], **fields: object) -> Result:
    fields.setdefault("model", {"method": name.partition("@")[0]})
    one = result(name, (row(8, {METRIC: seeded(values)}),), **fields)  # type: ignore[arg-type]
    return replace(one, seeds=tuple(range(len(values))))


def noisy(level: float, seed: int) -> list[float]:
    return (level + 0.01 * np.random.default_rng(seed).normal(size=5)).tolist()


def test_three_trainings_are_one_row_about_the_method() -> None:
    good, bad = ([f"{name}{suffix}" for suffix in ("", "@1", "@2")] for name in ("good", "bad"))
    results = [entry(name, noisy(1 + 0.02 * k, k)) for k, name in enumerate(good)]
    results += [entry(name, noisy(2 + 0.02 * k, 10 + k)) for k, name in enumerate(bad)]
    results += [entry("single", noisy(0.5, 20))]
    (table,) = build(results, 8, {"vector": METRIC}).values()
    rows = {r.entry: r for r in table.rows}
    assert set(rows) == {"good", "bad", "single"}
    assert {name: r.rank for name, r in rows.items()} == {"good": (1, 1), "bad": (2, 2), "single": (1, 1)}
    claims = {ranking.claim for ranking in table.rankings}
    assert claims == {"network", "method"}


def test_the_joint_value_is_the_mean_and_its_interval_covers_both_noises() -> None:
    each = [seeded(noisy(level, k)) for k, level in enumerate((1.0, 1.3, 1.1))]
    together = joined(each, METRIC)
    assert together.value == pytest.approx(np.mean([e.value for e in each]))
    assert together.ci is not None and together.value is not None
    own = max(e.ci[1] - e.ci[0] for e in each if e.ci)
    assert together.ci[1] - together.ci[0] > 4 * own, "trainings differ far more than seeds do"
    assert np.shape(together.details["per_seed"]) == (3, 5)
    assert together.details["per_training"] == [e.value for e in each]


def test_a_training_that_lacks_a_number_leaves_the_entry_without_one() -> None:
    each = [seeded(noisy(1.0, 0)), Estimate.missing("the solve diverged"), seeded(noisy(1.0, 2))]
    together = joined(each, METRIC)
    assert together.value is None and together.reason == "training 1: the solve diverged"
    assert joined([None, None], METRIC).reason == "not recorded"


def test_metrics_without_raw_values_are_joined_from_their_intervals() -> None:
    together = joined([estimate(1.0, 0.1), estimate(1.2, 0.1), estimate(0.8, 0.1)], "path_energy")
    assert together.ci is not None
    assert together.ci[0] < 0.6 and together.ci[1] > 1.4


def test_one_failed_training_fails_the_row_and_the_first_gives_the_times() -> None:
    results = [entry(name, noisy(1.0, k)) for k, name in enumerate(("mine", "mine@1", "mine@2"))]
    broken = replace(results[1].rows[0], failed="NaN in 3 of 5 samples", metrics={METRIC: Estimate.missing("failed")})
    results[1] = replace(results[1], rows=(broken,))
    (one,) = joined_trainings(results)
    assert one.rows[0].failed == "training 1: NaN in 3 of 5 samples"
    assert one.rows[0].latency == results[0].rows[0].latency
    assert one.model["trainings"] == 3


@pytest.mark.parametrize(
    ("there", "rows"),
    [
        ((0, 1, 2, 3), {"mine": "closed"}),
        ((0, 1, 2, 4), {"mine": "closed", "mine@4": "unranked"}),
        ((0, 2, 3), {"mine": "closed", "mine@2": "unranked", "mine@3": "unranked"}),
        ((0, 1), {"mine": "closed", "mine@1": "unranked"}),
        ((1, 2, 3), {"mine@1": "unranked", "mine@2": "unranked", "mine@3": "unranked"}),
        ((0,), {"mine": "closed"}),
    ],
)
def test_trainings_count_in_their_order_so_that_none_can_be_chosen(
    there: tuple[int, ...], rows: dict[str, str]
) -> None:
    values = {k: noisy(1.0 + k, k) for k in there}
    (table,) = build(
        [entry(f"mine@{k}" if k else "mine", values[k]) for k in reversed(there)], 8, {"vector": METRIC}
    ).values()
    assert {r.entry: r.group for r in table.rows} == rows
    claim = next(i for i, c in enumerate(table.columns) if c.title == "claim")
    value = next(i for i, c in enumerate(table.columns) if c.metric == METRIC)
    mine = next((r for r in table.rows if r.entry == "mine"), None)
    counted = {(0, 1, 2, 3): 4, (0, 1, 2, 4): 3}.get(there, 1)
    if mine is not None:
        assert mine.cells[claim].text == ("network" if counted == 1 else f"method, mean of {counted} trainings")
        means = [float(np.mean(values[k])) for k in range(counted)]
        assert mine.cells[value].value == pytest.approx(np.mean(means))


@pytest.mark.parametrize(
    "other",
    [
        {"model": {"method": "another"}},
        {"model": {"method": "mine", "parameters": 99}},
        {"model": {"method": "mine", "division": "open"}},
        {"samples_per_seed": 500},
    ],
    ids=str,
)
def test_what_was_made_or_measured_otherwise_is_no_training_of_it(other: dict) -> None:
    results = [entry(name, noisy(1.0, k)) for k, name in enumerate(("mine", "mine@1", "mine@2"))]
    results[1] = replace(results[1], **{**other, "model": results[1].model | other.get("model", {})})
    assert [r.ranked for r in joined_trainings(results)] == [True, False, False]


def test_cells_of_two_definitions_are_not_averaged() -> None:
    each = [replace(seeded(noisy(1.0, k)), key="new" if k < 2 else "old") for k in range(3)]
    together = joined(each, METRIC)
    assert together.value is None and "training 2 was measured by another version" in (together.reason or "")
    assert joined([replace(e, key="same") for e in each], METRIC).value is not None


def test_a_column_without_raw_values_makes_the_same_claim() -> None:
    """Means of trainings are never compared with single networks, whatever is recorded of them."""
    bare = [estimate(value, 0.1) for value in (1.0, 1.1, 1.2)]
    assert standing(joined(bare, METRIC)).claim == "method, mean of 3 trainings"
    assert standing(bare[0]).claim == "network"


def test_the_tooltip_has_every_training() -> None:
    note = estimate_cell(joined([seeded([v - 0.1, v, v + 0.1]) for v in (1.0, 1.5, 1.25)], METRIC)).note
    assert note.endswith("mean of 3 trainings: 1, 1.5, 1.25")
