"""The simulation of the ranking rule: its limits hold, a rule without correction is caught, and the report says it."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from fmbench.validation import ranking
from fmbench.validation.ranking import Setting, Share, draw, settings, simulate
from fmbench.validation.ranking_table import COLUMNS, cells, summary, to_json, to_markdown, to_text

FEW = 500


@pytest.mark.parametrize("setting", [s for s in settings() if s.entries == 10], ids=str)
def test_the_family_wise_error_is_within_its_limit(setting):
    assert simulate(setting, FEW).held


@pytest.mark.parametrize("entries", [5, 10])
def test_the_rule_before_it_is_caught(entries):
    line = simulate(Setting("network", entries, 5, "equal"), FEW)
    assert line.old is not None
    assert line.old.error.value - line.old.error.half > 0.2
    assert not ranking.Line(line.setting, line.old, None).held


def test_two_entries_err_as_often_as_the_level_says():
    error = simulate(Setting("network", 2, 5, "equal"), 4000).rule.error
    assert abs(error.value - 0.05) < 2 * error.half


def test_power_grows_with_the_units_and_falls_with_the_entries():
    def power(entries, units):
        return simulate(Setting("network", entries, units, "equal"), FEW).rule.power.value

    assert power(5, 3) < power(5, 5) < power(5, 10)
    assert power(5, 5) > power(10, 5) > power(20, 5)


def test_draws_are_what_the_report_says():
    y = draw(Setting("network", 4, 5, "fourfold"), 5.0, 4000, np.random.default_rng(0))
    gap = y[:, 2:].mean() - y[:, :2].mean()
    assert gap == pytest.approx(5 / math.sqrt(5), abs=0.05)
    left = (y - y.mean(1, keepdims=True)).var((0, 2)).mean()
    assert left == pytest.approx(3 / 4, rel=0.05)  # own variances of mean 1; the mean of four takes a quarter away
    assert ranking.spreads(5, 4.0).max() / ranking.spreads(5, 4.0).min() == pytest.approx(4)


def test_a_setting_gives_the_same_numbers_whatever_else_is_simulated():
    setting = Setting("method", 5, 3, "equal")
    assert simulate(setting, 200) == simulate(setting, 200)


def test_the_interval_of_a_share_has_a_width_at_zero():
    assert ranking._share(np.zeros(100)).half > 0.01
    assert ranking._share(np.array([0.0, 1.0] * 50)).half == pytest.approx(0.1, abs=0.01)


def test_tables_say_what_was_found():
    lines = [simulate(s, 100) for s in settings() if s.entries == 2 and s.units == 3]
    broken = ranking.Line(lines[0].setting, ranking.Rates(*[Share(0.5, 0.01)] * 3), None)
    assert cells(broken)[-1] == "NO"
    assert "0 of 1 settings" not in summary(lines)
    assert len(to_text(lines).splitlines()) == len(lines) + 1
    table = [line for line in to_markdown(lines).splitlines() if line.startswith("| ")]
    assert table[0] == "| " + " | ".join(COLUMNS) + " |"
    assert len(table) == len(lines) + 2
    assert to_json([broken, *lines])["passed"] is False
    json.dumps(to_json(lines))


@pytest.mark.slow
def test_the_command_writes_the_report(tmp_path, monkeypatch):
    code = (
        "import sys; from fmbench.validation import ranking; ranking.QUICK = 50\n"
        "from fmbench.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    path = tmp_path / "ranking.md"
    words = ["validate-ranking", "--quick", "--json", "--markdown", str(path)]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert done.returncode == (0 if found["passed"] else 1), done.stderr
    assert len(found["settings"]) == len(settings())
    assert found["summary"] in path.read_text()
