"""Results of schema 1 become schema 2: the same numbers, named as a fresh run names them; what cannot be told stays as it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fmbench.cli import main
from fmbench.evaluation.identity import identified
from fmbench.evaluation.migration import STALE, migrate
from fmbench.evaluation.options import Options
from fmbench.evaluation.run import run
from fmbench.evaluation.wanted import wanted
from fmbench.records import protocol, result
from fmbench.records.result import SAID_WHERE_KNOWN, Estimate, Result
from fmbench.zoo.resolve import load

TASK, ENTRY = "gaussian-moons", "gaussian-moons/cfm"
PROTOCOL = f"""
name = "tiny"
version = 1
summary = "for tests"
tasks = ["{TASK}"]
samples = 300
seeds = [0, 1]
samplers = [{{ solver = "euler", steps = 2 }}, {{ solver = "heun", steps = 3 }}]
metrics = ["wasserstein2", "truncation_gap", "straightness"]
flow = {{ samples = 32, steps = 4, probes = 8, probe_steps = 4 }}
latency = {{ batches = [1, 16], seconds = 0.0 }}
rank = {{ vector = "wasserstein2", steps = 2 }}
"""
NAMES = {"data.json", "cfm.json"}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of fresh results: an entry and the anchor of real data."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "tiny.toml").write_text(PROTOCOL)
    assert not run(folder / "tiny.toml", [ENTRY], folder / "out").errors
    return folder / "out"


def without_names(content: Any) -> Any:
    """Plain data as schema 1 had it: no draw, cell or run has a name."""
    if isinstance(content, dict):
        return {key: without_names(value) for key, value in content.items() if key not in SAID_WHERE_KNOWN}
    return [without_names(item) for item in content] if isinstance(content, (list, tuple)) else content


@pytest.fixture
def old(measured: Path, tmp_path: Path) -> Path:
    """The same folder as a version that wrote schema 1 would have left it."""
    folder = Path(shutil.copytree(measured, tmp_path / "old"))
    for path in files(folder):
        content = without_names(json.loads(json.dumps(result.read(path).to_json())))
        assert content["schema"] == 1
        path.write_text(json.dumps(content))
    return folder


def files(folder: Path) -> list[Path]:
    return sorted((folder / "results").glob("*/*/*.json"))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def numbers(found: Result) -> Any:
    """Every number of a result, by where it stands."""
    rows = [(row.sampler.label, row.nfe, row.samples, {n: (e.value, e.ci, e.n) for n, e in row.metrics.items()})
            for row in found.rows]  # fmt: skip
    return rows, {n: (e.value, e.ci, e.n) for n, e in found.flow.items()}, found.seeds, found.samples_per_seed


def names(found: Result) -> Any:
    """Every name of a result: of draws, cells and the flow."""
    rows = [(row.id, {n: e.key for n, e in row.metrics.items()}) for row in found.rows]
    return rows, found.flow_id, {n: e.key for n, e in found.flow.items()}


@pytest.mark.slow
def test_every_number_keeps_its_value_and_gets_the_name_that_a_fresh_run_gives(old: Path, measured: Path) -> None:
    before = {path.name: result.read(path) for path in files(old)}
    assert set(before) == NAMES and not any(row.id for found in before.values() for row in found.rows)
    moved = migrate(old)
    assert ({path.name for path in moved.written}, moved.problems) == (NAMES, [])
    for path in files(old):
        assert json.loads(path.read_text())["schema"] == 2
        found, fresh = result.read(path), result.read(measured / path.relative_to(old))
        assert numbers(found) == numbers(before[path.name]) == numbers(fresh)
        assert names(found) == names(fresh)
        assert all(row.id for row in found.rows)


@pytest.mark.slow
def test_a_run_over_what_was_migrated_measures_nothing(
    old: Path, measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(old)
    before = bytes_of(old)
    monkeypatch.setattr("fmbench.evaluation.one._computed", lambda *_: pytest.fail("something is measured again"))
    assert not run(measured.parent / "tiny.toml", [ENTRY], old).errors
    assert bytes_of(old) == before


def test_running_twice_changes_nothing(old: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["leaderboard", "migrate", str(old)]) == 0
    assert {Path(line).name for line in capsys.readouterr().out.splitlines()} == NAMES
    before = bytes_of(old)
    assert main(["leaderboard", "migrate", str(old)]) == 0
    assert capsys.readouterr().out == "every result has the newest schema and its present name already\n"
    assert main(["leaderboard", "migrate", str(old), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert bytes_of(old) == before


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_text(path.read_text()[:-200]), "cfm.json"),
        (lambda path: path.write_text("{}"), "cfm.json"),
        (lambda path: edit(path, lambda c: c["rows"][0]["metrics"]["wasserstein2"].update(value="low")), "wasserstein2"),
        (lambda path: edit(path, lambda c: c["model"].update(weights_sha256="0" * 64)), "are not those of tiny and the zoo now"),
        (lambda path: edit(path, lambda c: c["benchmark"].update(sha256="0" * 64)), "are not those of tiny and the zoo now"),
        (lambda path: edit(path, lambda c: c.update(seeds=[0, 2])), "are not those of tiny and the zoo now"),
        (lambda path: edit(path, lambda c: c["model"].update(method="Mine")), "are not those of tiny and the zoo now"),
        (lambda path: edit(path, lambda c: c["model"].update(name=f"{TASK}/gone")), "unknown entry"),
        (lambda path: edit(path, lambda c: c["benchmark"].update(name="no-such")), "unknown benchmark"),
    ],
    ids=range(9),
)  # fmt: skip
def test_what_cannot_be_told_is_named_and_left_as_it_is(
    damage: Callable, words: str, old: Path, capsys: pytest.CaptureFixture
) -> None:
    path = old / "results" / "tiny" / TASK / "cfm.json"
    damage(path)
    before = path.read_bytes()
    assert main(["leaderboard", "migrate", str(old)]) == 1
    said = capsys.readouterr()
    (line,) = said.err.strip().splitlines()
    assert line.startswith(f"fmbench: {path} stays as it is: ") and words in line
    assert path.read_bytes() == before
    # The others are written.
    assert [Path(name).name for name in said.out.splitlines()] == ["data.json"]


def test_a_gap_to_a_reference_solve_that_nobody_named_is_retired(old: Path) -> None:
    """The flow was measured later than the samples: against which solve the gap was, cannot be told."""
    path = old / "results" / "tiny" / TASK / "cfm.json"
    edit(path, lambda content: content["environment"].update(flow=dict(content["environment"])))
    before = result.read(path)
    assert not migrate(old).problems
    found = result.read(path)
    for row, was in zip(found.rows, before.rows, strict=True):
        assert was.metrics["truncation_gap"].value is not None
        gap = row.metrics["truncation_gap"]
        assert (gap.value, gap.reason) == (None, STALE)
        assert row.metrics["wasserstein2"] == was.metrics["wasserstein2"]
    kept = json.dumps(found.retired)
    assert all(f"{was.metrics['truncation_gap'].value:.6g}" in kept for was in before.rows)
    assert found.flow == before.flow


def test_a_folder_without_results_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["leaderboard", "migrate", str(tmp_path)]) == 2
    assert "has no results folder" in capsys.readouterr().err


# -- names of before --------------------------------------------------------------------------------------------------


@pytest.fixture
def former(measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the entry has a result as it was written when it was an entry of another name and recipe."""
    folder = Path(shutil.copytree(measured, tmp_path / "former"))
    found = result.read(folder / "results" / "tiny" / TASK / "cfm.json")
    model = identified(load(ENTRY))
    facts = {"recipe": "f" * 64}
    spec, options = protocol.read(measured.parent / "tiny.toml"), Options(device="cpu")
    was = wanted(spec, model.task, replace(model, identity={**model.identity, **facts}), options)
    now = wanted(spec, model.task, model, options)
    draws = dict(zip(now.draws, was.draws, strict=True))

    def keyed(table: Mapping[str, Estimate], new: Mapping[str, str]) -> dict[str, Estimate]:
        return {name: replace(e, key=new[name]) for name, e in table.items()}

    rows = tuple(replace(row, id=draws[row.id], metrics=keyed(row.metrics, was.keys)) for row in found.rows)
    replace(
        found,
        model={**found.model, **facts, "name": f"{TASK}/former", "method": "former"},
        rows=rows,
        flow=keyed(found.flow, was.flow_keys),
        flow_id=was.flow,
    ).save(folder / "results")
    monkeypatch.setattr("fmbench.evaluation.migration.canonical", lambda name: name.replace("former", "cfm"))
    return folder


def test_a_result_under_an_old_name_gets_the_present_one_and_the_names_of_a_fresh_run(
    former: Path, measured: Path
) -> None:
    place = former / "results" / "tiny" / TASK
    for path in place.glob("cfm*"):
        path.unlink()
    moved = migrate(former)
    assert moved.problems == [] and moved.written == [place / "cfm.json"]
    assert not list(place.glob("former*")), "neither the file nor its sidecar stays"
    found, fresh = result.read(place / "cfm.json"), result.read(measured / (place / "cfm.json").relative_to(former))
    assert found.model == fresh.model and names(found) == names(fresh) and numbers(found) == numbers(fresh)
    assert [row.witness for row in found.rows] == [row.witness for row in fresh.rows]
    assert migrate(former).written == []


def test_a_result_that_has_the_present_name_already_stays(former: Path) -> None:
    place = former / "results" / "tiny" / TASK
    before = (place / "cfm.json").read_bytes()
    assert migrate(former).problems == []
    assert (place / "cfm.json").read_bytes() == before and not list(place.glob("former*"))


def test_a_result_of_other_weights_keeps_its_name(former: Path) -> None:
    place = former / "results" / "tiny" / TASK
    found = result.read(place / "former.json")
    replace(found, model={**found.model, "weights_sha256": "0" * 64}).save(former / "results")
    before = bytes_of(former)
    (problem,) = migrate(former).problems
    assert "its weights are not those of" in problem and "\n" not in problem
    assert bytes_of(former) == before
