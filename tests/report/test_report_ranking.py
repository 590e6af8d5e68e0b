import dataclasses

import pytest
from results_factory import estimate, result, row, simple

from fmbench.records.result import Estimate, read
from fmbench.report.ranking import (
    PRIMARY,
    STEPS,
    anchor,
    mflop_of,
    primary_metric,
    rank_row,
    rank_rule,
    unranked_reason,
)
from fmbench.storage.bundled import PACKAGE


def test_the_judged_row_has_the_most_fixed_steps_in_the_budget():
    number = {"wasserstein2": estimate(1.0)}
    rows = [row(1, number), row(8, number), row(16, number), row(None, number, "dopri5", 90)]
    assert rank_row(result("a", tuple(rows)), 8).steps == 8
    assert rank_row(result("a", tuple(rows)), 15).steps == 8
    assert rank_row(result("a", tuple(rows)), 100).steps == 16
    assert rank_row(result("a", tuple(rows[3:])), 100) is None


def test_a_one_step_map_is_judged_by_its_one_step():
    null = {"wasserstein2": Estimate.missing("one step only")}
    assert rank_row(result("a", (row(1, {"wasserstein2": estimate(1.0)}), row(8, null))), 8).steps == 1


def test_a_failed_row_is_still_the_one_that_counts():
    rows = [row(4, {"wasserstein2": estimate(1.0)}), row(8, {}, failed="NaN")]
    assert rank_row(result("a", tuple(rows)), 8).failed == "NaN"


def test_of_equal_steps_the_cheaper_sampler_counts():
    number = {"wasserstein2": estimate(1.0)}
    rows = [row(8, number, "heun", 16), row(8, number, "euler", 8)]
    assert rank_row(result("a", tuple(rows)), 8).solver == "euler"


def test_the_most_operations_count_and_never_the_best_number():
    """A head makes four evaluations dearer than eight without it; of equal work the first of the protocol counts."""
    worse, better = {"wasserstein2": estimate(2.0)}, {"wasserstein2": estimate(1.0)}
    dear = dataclasses.replace(row(4, worse), nfe={"network": 4.0, "head": 4.0}, mflop=50.0)
    plain = [dataclasses.replace(row(8, better), mflop=40.0), dataclasses.replace(row(7, better), mflop=40.0)]
    for division in ("closed", "open"):
        judged = rank_row(result("a", (*plain, dear), model={"division": division}), 8)
        assert (judged.steps, judged.mflop) == (4, 50.0)
        assert rank_row(result("a", tuple(plain), model={"division": division}), 8).steps == 8


def test_a_closed_budget_is_of_the_task_s_network_and_an_open_one_of_all():
    number = {"wasserstein2": estimate(1.0)}
    eight = dataclasses.replace(row(8, number), nfe={"network": 8.0, "decoder": 1.0}, mflop=90.0)
    four = dataclasses.replace(row(4, number), nfe={"network": 4.0, "decoder": 1.0}, mflop=50.0)
    guided = dataclasses.replace(row(5, number, guidance=2.0), nfe={"network": 5.0, "guidance": 5.0}, mflop=99.0)
    rows = (eight, four, guided)
    assert rank_row(result("a", rows, model={"division": "closed"}), 8).steps == 8
    assert rank_row(result("a", rows, model={"division": "open"}), 8).steps == 4


def test_rows_of_which_nobody_counted_the_operations_are_judged_as_they_were():
    number = {"wasserstein2": estimate(1.0)}
    rows = (row(2, number), row(8, number), row(16, number))
    cost = {"flops_per_evaluation": 2e6}
    costly = result("a", rows, cost=cost)
    assert rank_row(costly, 8) is rank_row(result("a", rows), 8) is rows[1]
    assert [mflop_of(costly, one) for one in rows] == [4.0, 16.0, 32.0]
    assert mflop_of(result("a", rows), rows[0]) is None
    counted = (dataclasses.replace(rows[0], mflop=1000.0), *rows[1:])
    assert rank_row(result("a", counted), 8) is rows[1]


def test_committed_results_are_judged_by_the_rows_with_the_most_evaluations():
    for path in sorted((PACKAGE.parent / "leaderboard" / "results").rglob("*.json"))[::5]:
        found = read(path)
        for budget in (1, 8, 16, 100):
            fixed = [r for r in found.rows if r.steps is not None and r.total_nfe <= budget and r.failed is None]
            if fixed:
                assert rank_row(found, budget) is max(fixed, key=lambda r: r.total_nfe)


def test_only_the_task_s_own_names_are_anchors():
    assert anchor(simple("data", 1, 0.1)) == "data"
    assert anchor(simple("oracle", 1, 0.1)) == "oracle"
    assert anchor(simple("data", 1, 0.1, model={"name": "elsewhere/data"})) is None
    assert anchor(simple("database", 1, 0.1)) is None


def test_who_is_not_ranked():
    assert unranked_reason(simple("a", 1, 0.1)) is None
    old = simple("a", 1, 0.1, ranked=False)
    assert unranked_reason(old) == "marked as not ranked by the run that made it"
    told = simple("a", 1, 0.1, ranked=False, unranked_because=("--limit 100", "seed set 2"))
    assert unranked_reason(told) == "--limit 100; seed set 2"
    assert "tool" in unranked_reason(simple("a", 1, 0.1, model={"division": "tool"}))
    assert "claimed" in unranked_reason(simple("a", 1, 0.1, status="claimed"))


def test_the_primary_metric_follows_the_kind_of_the_task():
    vector = simple("a", 1, 0.1)
    image = result("a", (row(8, {"wasserstein2": Estimate.missing("image"), "frechet_distance": estimate(3, 1)}),))
    assert primary_metric([vector], PRIMARY) == "wasserstein2"
    assert primary_metric([image], PRIMARY) == "frechet_distance"
    told = simple("a", 1, 0.1, task="t")
    told.task["kind"] = "image"
    assert primary_metric([told], PRIMARY) == "frechet_distance"


def test_the_rule_is_read_from_the_protocol(tmp_path):
    (tmp_path / "protocols").mkdir()
    (tmp_path / "protocols" / "mine.toml").write_text('[rank]\nvector = "sliced_wasserstein2"\nsteps = 4\n')
    rule = rank_rule("mine", tmp_path)
    assert (rule.steps, rule.primary["vector"], rule.primary["image"]) == (4, "sliced_wasserstein2", PRIMARY["image"])
    assert rank_rule("gone", tmp_path).steps == STEPS
    assert rank_rule("../protocols/mine", tmp_path).steps == STEPS


def test_a_task_may_have_its_own_metric(tmp_path):
    (tmp_path / "protocols").mkdir()
    (tmp_path / "protocols" / "mine.toml").write_text('tasks = ["moons"]\n[rank]\nmoons = "mmd"\n')
    assert rank_rule("mine", tmp_path).primary["moons"] == "mmd"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[rank]\nsteps = 0\n", "steps must be at least 1"),
        ("[rank]\nsteps = true\n", "steps must be int"),
        ("[rank]\nsteps = 1000000000\n", "steps must be at least 1 and at most"),
        ("[rank]\nvector = 3\n", "vector must be str"),
        ('[rank]\nvector = "wasserstein"\n', "nearest: .*wasserstein2"),
        ('[rank]\nvector = "density"\n', "density cannot rank"),
        ('[rank]\nvector = "straightness"\n', "straightness cannot rank"),
        ('[rank]\nmoons = "mmd"\n', "moons"),
        ("rank = 3\n", "rank must be a table"),
        ("[rank", "not valid TOML"),
        ("x = 1\n" * 200_000, "larger than 1 MiB"),
    ],
)
def test_a_bad_rule_names_the_file(tmp_path, text, says):
    (tmp_path / "protocols").mkdir()
    (tmp_path / "protocols" / "mine.toml").write_text(text)
    with pytest.raises(ValueError, match=says) as error:
        rank_rule("mine", tmp_path)
    assert str(tmp_path / "protocols" / "mine.toml") in str(error.value)
    assert "\n" not in str(error.value)
