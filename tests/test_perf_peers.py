"""The commands that measure fmbench beside others compute the same numbers on both sides; no time is asserted."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import fmbench

sys.path.append(str(Path(__file__).parent / "perf"))

import harness
import peer_cases
import peers
import script


def test_phases_add_up_to_the_whole_and_an_unknown_one_is_refused() -> None:
    def made(**phases: float) -> SimpleNamespace:
        return SimpleNamespace(model={"name": "a/b"}, seconds=10.0, phases=phases, runs={})

    spent = harness.seconds([made(sampling=2.0, core=3.0), made(sampling=1.0, features=1.0)])  # type: ignore[list-item]
    assert sum(spent.values()) == 20
    assert spent["other"] == 13
    assert harness.ratios(spent) == (5.0, 0.75)
    with pytest.raises(ValueError, match="unknown phase lunch in a/b"):
        harness.seconds([made(lunch=1.0)])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="nothing was run"):
        harness.ratios(dict.fromkeys(harness.PHASES, 0.0))


@pytest.mark.slow
def test_the_harness_prints_what_its_results_say(capsys: pytest.CaptureFixture[str]) -> None:
    harness.main(["quick", "-m", "gaussian-moons/cfm", "--limit", "16", "--each"])
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()[1:]]
    titles, entries, whole = lines[0], lines[2:-1], dict(zip(lines[0], lines[-1], strict=True))
    assert [line[0] for line in entries] == ["gaussian-moons/data", "gaussian-moons/cfm"]
    assert whole["run"] == "quick -m gaussian-moons/cfm --limit 16"
    assert sum(float(whole[phase]) for phase in harness.PHASES) == pytest.approx(float(whole["whole"]), abs=0.1)
    assert float(whole["whole / needed"]) > 1 + float(whole["core / needed"])
    assert titles[-1] == "core / needed"


@pytest.mark.slow
def test_the_honest_script_has_the_numbers_of_fmbench(tmp_path: Path) -> None:
    pytest.importorskip("prdc")
    setting = script.Setting(96, (2, 4), 16, 32, 16, 8)
    model = fmbench.load("digits/cfm")
    spec = peer_cases.protocol_of("digits", tmp_path, **peer_cases.scripted(setting))
    result = fmbench.evaluate(model, spec)[-1]
    found = script.scored(model, setting)
    names = peer_cases.SCRIPTED[:4]
    theirs = [found[f"{name}@{steps}"] for steps in setting.grids for name in names]
    assert peer_cases.numbers(result) == pytest.approx(theirs, rel=1e-7)
    # Another rule on another grid, and other probes of the trace.
    assert result.flow["straightness"].value == pytest.approx(found["straightness"], rel=0.02)
    bits = result.flow["bits_per_dimension"]
    assert abs(found["bits_per_dimension"] - bits.value) < 2 * (bits.ci[1] - bits.ci[0])


def test_a_peer_that_is_not_installed_leaves_a_line_that_says_so() -> None:
    def missing() -> float:
        import no_such_package  # type: ignore[import-not-found]

        return no_such_package.value

    pair = peer_cases.Pairing("what", "peer", "input", lambda: 1.0, missing)
    assert peers.line(pair, 1, "cpu").endswith("No module named 'no_such_package' |")


def test_answers_that_differ_are_said_to() -> None:
    pair = peer_cases.Pairing("what", "peer", "input", lambda: 1.0, lambda: 2.0)
    assert peers.line(pair, 1, "wall").endswith("| 5e-01 |")


@pytest.mark.parametrize(("group", "least"), [("fid", 2), ("transport", 8), ("sampling", 6)])
@pytest.mark.slow
def test_both_sides_of_a_pairing_agree(group: str, least: int) -> None:
    pytest.importorskip("torchcfm")
    seen = 0
    for pair in peer_cases.GROUPS[group](True):
        try:
            line = peers.line(pair, 1, "cpu")
        except Exception as error:  # the line of a table that failed says which
            raise AssertionError(f"{pair.what} beside {pair.peer}, {pair.input}") from error
        if "No module" not in line:
            seen += 1
            assert float(line.strip("| ").split(" | ")[-1]) < 1e-5, line
    assert seen >= least
