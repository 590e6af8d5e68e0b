import json
import random
import subprocess
import sys

import pytest
from results_factory import HOSTILE, table_of_results

from fmbench.report.build import build_leaderboard
from fmbench.report.reading import read_results


@pytest.fixture
def folder(tmp_path):
    results = table_of_results() + table_of_results("digits", "image")
    random.Random(0).shuffle(results)
    for result in results:
        result.save(tmp_path / "results")
    return tmp_path


def contents(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and "results" not in p.parts
    }


def change(folder, entry, edit):
    path = folder / "results" / "transport-2d" / "digits" / f"{entry}.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return path


def test_what_is_written(folder):
    written = build_leaderboard(folder)
    assert sorted(p.relative_to(folder).as_posix() for p in written) == [
        "README.md",
        "index.html",
        "tables/transport-2d.csv",
    ]
    assert set(contents(folder)) == {"README.md", "index.html", "tables/transport-2d.csv"}
    assert HOSTILE not in (folder / "index.html").read_text()
    assert HOSTILE not in (folder / "README.md").read_text()


def test_the_same_results_give_the_same_bytes(folder, tmp_path_factory):
    build_leaderboard(folder)
    first = contents(folder)
    build_leaderboard(folder)
    assert contents(folder) == first
    other = tmp_path_factory.mktemp("other")
    for result in reversed(read_results(folder / "results")):
        result.save(other / "results")
    build_leaderboard(other)
    assert contents(other) == first


def test_results_come_back_unchanged(folder):
    expected = {
        (r.task["name"], r.entry): r.to_json() for r in table_of_results() + table_of_results("digits", "image")
    }
    found = {(r.task["name"], r.entry): r.to_json() for r in read_results(folder / "results")}
    assert found == expected


def edit_row(**fields):
    return lambda content: content["rows"][0].update(fields)


def edit_estimate(**fields):
    return lambda content: content["rows"][0]["metrics"]["frechet_distance"].update(fields)


@pytest.mark.parametrize(
    "edit",
    [
        lambda c: c.update(schema=99),
        lambda c: c.pop("rows"),
        lambda c: c.update(flow=[]),
        lambda c: c.update(rows=[3]),
        lambda c: c.update(ranked="yes"),
        lambda c: c.update(status="official"),
        lambda c: c.update(environment=None),
        lambda c: c["benchmark"].update(name="../../escape"),
        lambda c: c["task"].update(name="gaussian-8gaussians"),
        lambda c: c["model"].update(name="digits/rf-1"),
        lambda c: c["model"].update(name=7),
        lambda c: c["model"].update(parameters="many"),
        lambda c: c["rows"].append(c["rows"][0]),
        edit_row(nfe={"network": "<b>"}),
        edit_row(nfe={"network": -1}),
        edit_row(steps="8"),
        edit_row(guidance=None),
        edit_row(latency={"p50": "fast"}),
        edit_estimate(value="<img>"),
        edit_estimate(value=float("nan")),
        edit_estimate(ci=[2.0, 1.0]),
        edit_estimate(ci=[1.0]),
        edit_estimate(n=-1),
        lambda c: c["flow"]["straightness"].update(value=True),
    ],
)
def test_a_bad_file_is_named_and_nothing_is_written(folder, edit):
    path = change(folder, "cfm", edit)
    with pytest.raises(ValueError, match="is not a result file") as error:
        build_leaderboard(folder)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert contents(folder) == {}


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"3"])
def test_a_damaged_file_keeps_the_old_leaderboard(folder, damage):
    build_leaderboard(folder)
    before = contents(folder)
    path = folder / "results" / "transport-2d" / "digits" / "cfm.json"
    path.write_bytes(damage)
    with pytest.raises(ValueError, match="is not a result file") as error:
        build_leaderboard(folder)
    assert str(path) in str(error.value)
    assert contents(folder) == before


def test_an_empty_folder_is_a_leaderboard_without_tables(tmp_path):
    assert [p.name for p in build_leaderboard(tmp_path)] == ["README.md", "index.html"]


def test_the_protocol_in_the_folder_ranks(folder):
    (folder / "protocols").mkdir()
    (folder / "protocols" / "transport-2d.toml").write_text('[rank]\nvector = "sliced_wasserstein2"\nsteps = 2\n')
    build_leaderboard(folder)
    assert "Ranked by SW2 @2" in (folder / "README.md").read_text()


def test_building_needs_no_torch():
    code = "import sys, fmbench.report.build, fmbench.report.terminal; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
