"""Result files, schema 2: nothing is lost, what is shared stands once, every shape is checked, an edited number is told from a measured one."""

import copy
import dataclasses
import json
from pathlib import Path

import pytest

from fmbench.records import file, result
from fmbench.records.result import Estimate, Row
from fmbench.storage.bundled import PACKAGE

RESULTS = PACKAGE.parent / "leaderboard" / "results"
COMMITTED = sorted(RESULTS.rglob("*.json"))
ENTRY = Path(__file__).parent / "data" / "many" / "cfm.json"


@pytest.fixture(scope="module")
def whole():
    return json.loads(ENTRY.read_text())


def resealed(content):
    """The same with seals that fit what is there."""
    draws, pins = content["draws"], content["pins"]
    content["seals"] = {n: file.seal(table, draws.get(n), pins) for n, table in content["cells"].items()}
    return content


def test_every_committed_result_is_of_this_schema_small_and_a_line_for_every_number():
    assert len(COMMITTED) >= 148
    for path in COMMITTED:
        text = path.read_text()
        content = json.loads(text)
        assert content["schema"] == file.SCHEMA
        assert len(text) < 30_000
        assert file.text(content) == text
        cells = sum(map(len, content["cells"].values()))
        assert text.count('\n   "') >= cells
        # Every number has a name, and so has what it was measured on.
        assert not [n for n in content["draws"] if n.startswith("~")]


def test_the_long_form_is_schema_1_and_is_read(tmp_path):
    for path in COMMITTED[::20]:
        found = result.read(path)
        content = json.loads(json.dumps(found.to_json()))
        assert content["schema"] == 1
        again = result.parse(content)
        assert again == found
        assert [row.id for row in again.rows] == [row.id for row in found.rows]
        whole = json.loads(path.read_text())
        # What lies in the sidecar is not in the long form.
        whole.pop("sidecar", None)
        assert json.loads(again.save(tmp_path).read_text()) == whole


def at(*keys, **fields):
    def edit(content):
        for key in keys:
            content = content[key]
        content.update(fields)

    return edit


def first_draw(content):
    return next(iter(content["draws"]))


def in_draw(**fields):
    return lambda c: c["draws"][first_draw(c)].update(fields)


def in_cell(metric="wasserstein2", **fields):
    return lambda c: c["cells"][first_draw(c)][metric].update(fields)


CASES = [
    (lambda c: c.pop("draws"), "the whole lacks draws"),
    (at(extra=1), "the whole has 'extra', which is no field of it"),
    (at(draws={}), "draws must be a table of length >= 1"),
    (at(runs={}), "runs must be a table of length >= 1"),
    (at(weights=["x"]), "weights[0] must be 64 hexadecimal digits, got 'x'"),
    (at(weights="x"), "weights must be a list or null, got 'x'"),
    (at(code=7), "code must be text or null, got 7"),
    (in_draw(sampler=["euler"]), "draws.DRAW.sampler must be a list of length 3, got ['euler']"),
    (in_draw(sampler=["euler", 0, 1.0]), "rows[0].steps must be a whole number >= 1, got 0"),
    (in_draw(nfe={"network": -1}), "draws.DRAW.nfe.network must be a number >= 0.0, got -1"),
    (in_draw(latency={"batches": 3}), "latency must have first_call, clock_mhz and a list of 8 or 12"),
    (in_draw(latency={"long": {"p50": -1.0, "batch": 1}}), "rows[0].latency.p50 must be a number >= 0.0, got -1.0"),
    (in_draw(run="gone"), "rows[0].run names no run, got 'gone'"),
    (in_cell(value="low"), "cells.DRAW.wasserstein2.value must be a number or null, got 'low'"),
    (in_cell(value=-1.0, ci=None, details={}), "rows[0].metrics.wasserstein2.value must be at least 0, got -1.0"),
    (in_cell(ci=[3, 1]), "rows[0].metrics.wasserstein2.ci must be two numbers in order"),
    (in_cell(n=0), "rows[0].metrics.wasserstein2.n must be at least 1 beside a value"),
    (in_cell(run="gone"), "runs has no 'gone', which 'wasserstein2' names"),
    (in_cell(odd=1), "cells.DRAW.wasserstein2 has 'odd', which is no field of it"),
    (lambda c: in_cell(k=c["cells"][first_draw(c)]["mmd"]["k"])(c), "cells.DRAW.wasserstein2.k is the key of 'mmd'"),
    (lambda c: c["cells"].update({"flow:x": {}}), "cells must have one flow"),
    (lambda c: c["cells"].update(more={}), "cells must have the draws, got ['more'] in one only"),
    (lambda c: c["seals"].pop(first_draw(c)), "seals must have one seal for every draw and flow"),
    (at(retired={"d": {"mmd": {"value": 1.0}}}), "retired.d.mmd lacks k"),
    (at("task", name="digits"), "model.name must be digits/ENTRY, as its task says"),
    (lambda c: next(iter(c["runs"].values())).update(created="now"), "must be a time as in ISO 8601"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "says"), CASES, ids=[says[:60] for _, says in CASES])
def test_what_is_wrong_is_refused_with_its_place(whole, edit, says):
    content = copy.deepcopy(whole)
    edit(content)
    if set(content.get("seals", ())) == set(content.get("cells", ())) and "draws" in content:
        resealed(content)
    with pytest.raises(ValueError, match=" ") as error:
        result.parse(content)
    assert says.replace("DRAW", first_draw(whole)) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "edit",
    [
        in_cell(value=0.9999 * json.loads(ENTRY.read_text())["cells"][first_draw(json.loads(ENTRY.read_text()))]["mmd"]["value"], metric="mmd"),
        in_cell(n=7),
        in_draw(nfe={"network": 1.0}),
        in_draw(samples={"n": 5, "sha256": "0" * 64}),
        lambda c: c["pins"][c["cells"][first_draw(c)]["mmd"]["k"]]["details"].update(reference_n=9),
    ],
)  # fmt: skip
def test_an_edited_number_is_no_result_and_what_is_left_of_it_is_found(whole, tmp_path, edit):
    content = copy.deepcopy(whole)
    edit(content)
    path = tmp_path / "cfm.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="was changed after it was measured: its seal is another"):
        result.read(path)
    left = result.read_intact(path)
    full = result.read(ENTRY)
    if content["pins"] != whole["pins"]:
        assert left is None  # every draw has a number that the pin describes
        return
    gone = {row.id for row in full.rows} - {row.id for row in left.rows}
    assert gone == {first_draw(whole)}
    assert left.rows == tuple(row for row in full.rows if row.id not in gone)


def test_nothing_is_left_where_every_draw_was_edited(whole, tmp_path):
    content = copy.deepcopy(whole)
    for draw in content["draws"].values():
        draw["nfe"] = {"network": 99.0}
    path = tmp_path / "cfm.json"
    path.write_text(json.dumps(content))
    assert result.read_intact(path) is None


def test_other_numbers_with_one_key_keep_their_own_details(tmp_path):
    """Keys are made by programs that may be wrong: what two numbers do not share is not shared."""
    found = result.read(ENTRY)
    pairs = [
        ({"a": 1, "b": 2}, {"a": True, "b": 2}),
        ({"a": 1}, {}),
        ({"a": 1.0}, {"a": 1}),
        ({"per_seed": [1.0] * 5}, {"x": None}),
    ]
    for one, other in pairs:
        rows = tuple(
            Row("euler", steps, 1.0, {"network": 1.0}, {"own": Estimate(1.0, (0.5, 2.0), 3, details=details, key="k")}, id=f"d{steps}")
            for steps, details in ((1, one), (2, other))
        )  # fmt: skip
        made = dataclasses.replace(found, rows=rows, flow={}, runs={})
        again = result.read(made.save(tmp_path))
        assert json.dumps([r.metrics["own"].details for r in again.rows], sort_keys=True) == json.dumps([one, other])
        assert [row.metrics["own"].key for row in again.rows] == ["k", "k"]


def test_results_that_nobody_named_are_written_and_read_too(tmp_path):
    found = result.read(ENTRY)
    bare = dataclasses.replace(
        found,
        flow_id="",
        rows=tuple(
            dataclasses.replace(
                row, id="", metrics={n: dataclasses.replace(e, key="") for n, e in row.metrics.items()}, latency={"failed": "no clock"}
            )
            for row in found.rows
        ),
    )  # fmt: skip
    again = result.read(bare.save(tmp_path))
    assert again == bare
    assert {row.id for row in again.rows} == {""}
    assert {e.key for row in again.rows for e in row.metrics.values()} == {""}
