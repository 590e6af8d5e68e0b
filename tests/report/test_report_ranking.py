import pytest
from results_factory import estimate, result, row, simple

from fmbench.records.result import Estimate
from fmbench.report.ranking import (
    PRIMARY,
    STEPS,
    anchor,
    primary_metric,
    rank_row,
    rank_rule,
    unranked_reason,
)


def test_the_judged_row_has_the_most_fixed_steps_in_the_budget():
    number = {"wasserstein2": estimate(1.0)}
    rows = [row(1, number), row(8, number), row(16, number), row(None, number, "dopri5", 90)]
    assert rank_row(rows, 8).steps == 8
    assert rank_row(rows, 15).steps == 8
    assert rank_row(rows, 100).steps == 16
    assert rank_row(rows[3:], 100) is None


def test_a_one_step_map_is_judged_by_its_one_step():
    null = {"wasserstein2": Estimate.missing("one step only")}
    assert rank_row([row(1, {"wasserstein2": estimate(1.0)}), row(8, null)], 8).steps == 1


def test_a_failed_row_is_still_the_one_that_counts():
    rows = [row(4, {"wasserstein2": estimate(1.0)}), row(8, {}, failed="NaN")]
    assert rank_row(rows, 8).failed == "NaN"


def test_of_equal_steps_the_cheaper_sampler_counts():
    number = {"wasserstein2": estimate(1.0)}
    rows = [row(8, number, "heun", 16), row(8, number, "euler", 8)]
    assert rank_row(rows, 8).solver == "euler"


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
