import dataclasses
import json
import os
import random
import subprocess
import sys

import pytest
from results_factory import HOSTILE_REASON, simple, table_of_results

from fmbench.report.build import build_leaderboard
from fmbench.report.reading import read_results


def saved():
    """Results that can be saved; one has a method and a reason that try to be markup."""
    return table_of_results(hostile="h") + table_of_results("digits", "image", hostile="h")


@pytest.fixture
def folder(tmp_path):
    results = saved()
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


def test_what_is_written(folder):
    built = build_leaderboard(folder)
    assert built.problems == []
    assert sorted(p.relative_to(folder).as_posix() for p in built.written) == [
        "README.md",
        "index.html",
        "tables/transport-2d.csv",
    ]
    assert set(contents(folder)) == {"README.md", "index.html", "tables/transport-2d.csv"}
    for shown in ("README.md", "index.html"):
        assert HOSTILE_REASON not in (folder / shown).read_text()


@pytest.mark.slow
def test_the_same_results_give_the_same_bytes(folder, tmp_path_factory):
    build_leaderboard(folder)
    first = contents(folder)
    build_leaderboard(folder)
    assert contents(folder) == first
    other = tmp_path_factory.mktemp("other")
    for result in reversed(read_results(folder / "results").results):
        result.save(other / "results")
    build_leaderboard(other)
    assert contents(other) == first


def test_results_come_back_unchanged(folder):
    expected = {(r.task["name"], r.entry): r.to_json() for r in saved()}
    found = read_results(folder / "results")
    assert found.problems == []
    assert {(r.task["name"], r.entry): r.to_json() for r in found.results} == expected


@pytest.mark.slow
@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"3", b"[" * 100_000])
def test_a_bad_file_is_left_out_and_the_others_are_built(folder, damage):
    path = folder / "results" / "transport-2d" / "digits" / "cfm.json"
    whole = path.read_bytes()
    path.unlink()
    build_leaderboard(folder)
    without = contents(folder)
    path.write_bytes(damage)
    built = build_leaderboard(folder)
    (problem,) = built.problems
    assert problem.startswith(str(path))
    assert "\n" not in problem
    assert contents(folder) == without
    path.write_bytes(whole)
    assert build_leaderboard(folder).problems == []
    assert contents(folder) != without


@pytest.mark.slow
def test_what_has_no_place_among_results_is_named_and_not_followed(folder, tmp_path_factory):
    build_leaderboard(folder)
    before = contents(folder)
    outside = tmp_path_factory.mktemp("outside")
    results, task = folder / "results", folder / "results" / "transport-2d" / "digits"
    whole = (task / "cfm.json").read_text()
    mine = json.loads(whole)
    mine["entry"]["name"] = "digits/mine"
    (outside / "transport-2d" / "digits").mkdir(parents=True)
    (outside / "transport-2d" / "digits" / "mine.json").write_text(json.dumps(mine))
    (task / "mine.json").symlink_to(outside / "transport-2d" / "digits" / "mine.json")
    (results / "linked").symlink_to(outside / "transport-2d")
    (task / "folder.json").mkdir()
    os.mkfifo(task / "pipe.json")
    (task / ".hidden.json").write_text(whole)
    (task / ".cfm.json.x1.tmp").write_text(whole)
    (task / "copy.json").write_text(whole)
    (task / "cfm.json.bak").write_text(whole)
    (results / "cfm.json").write_text(whole)
    (task.parent / "cfm.json").write_text(whole)
    (task / "notes.txt").write_text("of no concern")
    built = build_leaderboard(folder)
    assert contents(folder) == before
    wrong = "is in the wrong place"
    expected = {
        task / "mine.json": "is a symbolic link",
        results / "linked": "is a symbolic link",
        task / "folder.json": "is a folder where",
        task / "pipe.json": "is no regular file",
        task / ".hidden.json": "is hidden",
        task / ".cfm.json.x1.tmp": "is hidden",
        task / "copy.json": "it says to be transport-2d/digits/cfm.json",
        task / "cfm.json.bak": "is no result",
        results / "cfm.json": wrong,
        task.parent / "cfm.json": wrong,
    }
    assert len(built.problems) == len(expected)
    for path, says in expected.items():
        assert [p for p in built.problems if p.startswith(str(path)) and says in p], (path, built.problems)


def test_a_file_that_may_not_be_read_is_named(folder):
    path = folder / "results" / "transport-2d" / "digits" / "cfm.json"
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert [p.split(" cannot")[0] for p in build_leaderboard(folder).problems] == [str(path)]


@pytest.mark.slow
def test_the_command_names_bad_files_and_prints_what_it_wrote(folder):
    for name in ("a\nb\x1b[2J.json", "cfm.json"):
        (folder / "results" / "transport-2d" / "digits" / name).write_text("{")
    done = subprocess.run(
        [sys.executable, "-m", "fmbench", "leaderboard", "build", str(folder), "--json"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert [line.count(".json") for line in done.stderr.splitlines()] == [1, 1]
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stderr
    assert json.loads(done.stdout) == [str(folder / n) for n in ("README.md", "index.html", "tables/transport-2d.csv")]


def test_a_benchmark_whose_protocol_is_bad_does_not_take_the_others_along(folder):
    dataclasses.replace(simple("a", 1, 0.1), benchmark={"name": "mine", "version": 1, "sha256": "b" * 64}).save(
        folder / "results"
    )
    (folder / "protocols").mkdir()
    (folder / "protocols" / "mine.toml").write_text("[rank]\nsteps = 0\n")
    built = build_leaderboard(folder)
    (problem,) = built.problems
    assert str(folder / "protocols" / "mine.toml") in problem
    assert "mine" not in (folder / "README.md").read_text()
    assert "ot-cfm" in (folder / "README.md").read_text()


def test_a_readme_with_a_mark_without_a_table_stays_as_it_is(folder):
    text = "<!-- fmbench: nowhere/digits | rank -->\n<!-- /fmbench -->\n"
    (folder / "mine.md").write_text(text)
    built = build_leaderboard(folder, folder / "mine.md")
    assert ["nowhere/digits" in p and str(folder / "mine.md") in p for p in built.problems] == [True]
    assert (folder / "mine.md").read_text() == text
    assert (folder / "README.md").is_file()


def test_an_empty_folder_is_a_leaderboard_without_tables(tmp_path):
    assert [p.name for p in build_leaderboard(tmp_path).written] == ["README.md", "index.html"]


def test_the_protocol_in_the_folder_ranks(folder):
    (folder / "protocols").mkdir()
    (folder / "protocols" / "transport-2d.toml").write_text('[rank]\nvector = "sliced_wasserstein2"\nsteps = 2\n')
    build_leaderboard(folder)
    assert "Ranked by SW2 @2" in (folder / "README.md").read_text()


@pytest.mark.slow
def test_building_needs_no_torch(folder):
    code = (
        "import sys; from pathlib import Path; from fmbench.report.build import build_leaderboard\n"
        "import fmbench.report.terminal\n"
        "assert not build_leaderboard(Path(sys.argv[1])).problems; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(folder)], check=False).returncode == 0


@pytest.mark.slow
def test_a_run_into_a_folder_with_a_bad_file_still_has_the_tables_of_the_others(folder):
    bad = folder / "results" / "transport-2d" / "digits" / "cfm.json"
    bad.write_text("{")
    words = ["run", "quick", "-m", "gaussian-moons/oracle", "--limit", "20", "--out", str(folder), "--json"]
    done = subprocess.run([sys.executable, "-m", "fmbench", *words], capture_output=True, text=True)
    assert done.returncode == 0, "the run itself has done what it was asked"
    assert [line.startswith(f"fmbench: {bad}") for line in done.stderr.splitlines()] == [True]
    assert [r["model"]["name"] for r in json.loads(done.stdout)] == ["gaussian-moons/data", "gaussian-moons/oracle"]
    text = (folder / "README.md").read_text()
    assert "ot-cfm" in text
    assert "quick, version" in text
