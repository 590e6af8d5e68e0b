"""The file beside a result: nothing of it is lost, it is replaced with its result, and a result is read whatever happened to it."""

import dataclasses
import json
from pathlib import Path

import pytest

from fmbench.records import result, sidecar
from fmbench.records.sidecar import Witness
from fmbench.report.reading import read_results
from fmbench.storage import files
from fmbench.storage.bundled import PACKAGE

RESULTS = PACKAGE.parent / "leaderboard" / "results"
SEEDS = Path(__file__).parent / "data" / "seeds" / "cfm.json"
ONE_SEED = Path(__file__).parent / "data" / "one" / "cfm.json"
CODE = "c" * 64


def witness(k=0):
    return Witness(f"{k:064x}", 16, tuple(0.5 * i + k for i in range(32)))


def with_raw(path, shift=0.0):
    """A committed result with raw values and witnesses."""
    found = result.read(path)

    def raw(table):
        return {
            n: dataclasses.replace(e, replicates=e.replicates or tuple(e.value + i + shift for i in range(20)))
            if e.value is not None
            else e
            for n, e in table.items()
        }

    rows = tuple(
        dataclasses.replace(row, metrics=raw(row.metrics), witness=witness(k)) for k, row in enumerate(found.rows)
    )
    return dataclasses.replace(found, rows=rows, flow=raw(found.flow), flow_witness=witness(99), codes=(CODE,))


def raw_of(found):
    tables = [*(row.metrics for row in found.rows), found.flow]
    return [{n: e.replicates for n, e in table.items()} for table in tables]


def beside(path):
    return sorted(p.name for p in path.parent.iterdir() if p.name.endswith(sidecar.ENDING))


@pytest.mark.parametrize("source", [SEEDS, ONE_SEED])
def test_what_is_written_beside_a_result_is_read_again(source, tmp_path):
    made = with_raw(source)
    path = made.save(tmp_path)
    again = result.read(path)
    assert again == made == result.read_intact(path)
    assert raw_of(again) == raw_of(made)
    assert [row.witness for row in again.rows] == [row.witness for row in made.rows]
    assert (again.flow_witness, again.codes, again.without_sidecar) == (witness(99), (CODE,), "")
    (name,) = beside(path)
    content = (path.parent / name).read_bytes()
    assert again.sidecar == files.sha256(content)
    assert name == f"cfm.{again.sidecar[:8]}.sidecar"
    # Written again it is the same file, and the record itself stays small.
    assert again.save(tmp_path) == path
    assert beside(path) == [name]
    assert len(path.read_bytes()) < 30_000
    assert json.loads(content)["schema"] == 1
    # Values by seed stand in the record, once.
    assert ("groups" in content.decode()) == (
        source == ONE_SEED or any(e.value is not None for e in made.flow.values())
    )
    if source == SEEDS:
        assert all(
            e.replicates == tuple(e.details["per_seed"])
            for e in again.rows[0].metrics.values()
            if "per_seed" in e.details
        )


def test_committed_results_have_values_by_seed_and_no_sidecar(tmp_path):
    found = result.read(SEEDS)
    assert (found.sidecar, found.without_sidecar, beside(SEEDS)) == ("", "", [])
    assert len(found.rows[0].metrics["wasserstein2"].replicates) == 3
    assert found.save(tmp_path).read_bytes() == SEEDS.read_bytes()


def test_the_old_sidecar_goes_and_those_of_others_stay(tmp_path):
    path = with_raw(ONE_SEED).save(tmp_path)
    named = dataclasses.replace(
        with_raw(ONE_SEED), model={**result.read(ONE_SEED).model, "name": "digits/cfm.deadbeef"}
    )
    others = [p for p in (named.save(tmp_path),) for p in beside(p) if p.startswith("cfm.deadbeef.")]
    (path.parent / "cfm.12345678.sidecar").write_text("left over")
    with_raw(ONE_SEED, shift=1.0).save(tmp_path)
    left = beside(path)
    assert len(left) == 2
    assert set(others) < set(left)
    result.read(ONE_SEED).save(tmp_path)
    assert beside(path) == others


def test_a_result_that_is_not_written_leaves_the_old_one_with_its_sidecar(tmp_path, monkeypatch):
    made = with_raw(ONE_SEED)
    path = made.save(tmp_path)
    write = files.write_atomic

    def failing(where, data):
        if where.suffix == ".json":
            raise OSError("disk full")
        write(where, data)

    monkeypatch.setattr(result, "write_atomic", failing)
    with pytest.raises(OSError, match="disk full"):
        with_raw(ONE_SEED, shift=1.0).save(tmp_path)
    monkeypatch.undo()
    again = result.read(path)
    assert (raw_of(again), again.without_sidecar) == (raw_of(made), "")
    made.save(tmp_path)
    assert len(beside(path)) == 1


def damaged(path):
    path.write_bytes(path.read_bytes()[:-40])


def edited(path):
    path.write_text(path.read_text().replace('"rows": 16', '"rows": 15', 1))


def other_schema(path):
    """Its hash fits, for the record names it."""
    record = path.with_name("cfm.json")
    text = path.read_text().replace('"schema": 1', '"schema": 7')
    sha = files.sha256(text.encode())
    content = json.loads(record.read_text())
    content["sidecar"] = sha
    record.write_text(json.dumps(content))
    path.with_name(f"cfm.{sha[:8]}.sidecar").write_text(text)


CASES = [
    (lambda path: path.unlink(), "is missing, which holds"),
    (lambda path: (path.unlink(), path.mkdir()), "is no regular file"),
    (damaged, "its SHA-256 is another"),
    (edited, "its SHA-256 is another"),
    (other_schema, "is no sidecar: schema must be 1, got 7"),
]


@pytest.mark.parametrize(("harm", "says"), CASES, ids=[says for _, says in CASES])
def test_a_result_is_read_without_its_sidecar_and_says_why(tmp_path, harm, says):
    made = with_raw(ONE_SEED)
    path = made.save(tmp_path)
    harm(path.with_name(beside(path)[0]))
    found = result.read(path)
    assert found == made
    assert says in found.without_sidecar
    assert "cfm." in found.without_sidecar
    assert "\n" not in found.without_sidecar
    assert {row.witness for row in found.rows} == {None}
    assert not any(value for table in raw_of(found) for value in table.values())


def test_a_draw_with_a_broken_seal_loses_its_raw_values_only(tmp_path):
    made = with_raw(ONE_SEED)
    path = made.save(tmp_path)
    content = json.loads(path.read_text())
    second = list(content["draws"])[1]
    content["draws"][second]["nfe"] = {"network": 77.0}
    path.write_text(json.dumps(content))
    left = result.read_intact(path)
    kept = [row for row in made.rows if row.id != second]
    assert [row.witness for row in left.rows] == [row.witness for row in kept]
    assert raw_of(left) == [{n: e.replicates for n, e in row.metrics.items()} for row in kept] + raw_of(made)[-1:]


def test_values_that_no_file_may_hold_are_refused_before_anything_is_written(tmp_path):
    found = result.read(ONE_SEED)
    bad = {
        **found.flow,
        "straightness": dataclasses.replace(found.flow["straightness"], replicates=(1.0, float("nan"))),
    }
    with pytest.raises(ValueError, match=r"the result of 'digits/cfm' cannot be written: .*groups.straightness"):
        dataclasses.replace(found, flow=bad).save(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"replicates\[1\] must be a finite number, got nan"):
        result.check_estimate("straightness", bad["straightness"])


def test_reports_take_no_sidecar_for_a_result(tmp_path):
    with_raw(ONE_SEED).save(tmp_path)
    found = read_results(tmp_path)
    assert (len(found.results), found.problems) == (1, [])
