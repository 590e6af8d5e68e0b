"""Result files from anyone: whatever is in one, tables come out, or one line that names the file.

Seeded and bounded. Every case is a real committed result, cut to a few rows, changed in one to three places, beside a good one of the same
task. What `leaderboard build` accepted must satisfy laws that are written here once more, from the raw JSON.
"""

import contextlib
import copy
import csv
import json
import math
import os
import random
import re
import statistics

import pytest

from fmbench.cli import main
from fmbench.records import file, result
from fmbench.storage.bundled import PACKAGE

RESULTS = PACKAGE.parent / "leaderboard" / "results"
CASES = 400
"""For each of the kinds of result below."""
MARKS = ("<script>", "onerror=", "\x1b", "\u202e")
TEXTS = [
    "", "x", "false", "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "a\x1b[31m\nb\u202ec", "../../escape", "/etc/passwd",
    "..", "=1+1", "a|b`c`[d](http://e)", "\ud800", "\0", "NaN", "x" * 5000, "con", "2026-13-45",
]  # fmt: skip
NUMBERS = [
    0, 1, -1, 2**31, 2**63, 2**64, 10**400, -5, 0.5, -0.0, 5e-324, 1e-310, 1e150, 1e300, 1.7e308, -1.7e308, 1e-5, 3.0, 100_000, 1e6,
]  # fmt: skip
OTHERS = [None, True, False, [], {}, [1, 2, 3], [None], {"value": 1}, [[1.0, 2.0]], {"a": {"b": {"c": 1}}}]
RANGES = {
    "wasserstein2": (0, None), "sliced_wasserstein2": (0, None), "frechet_distance": (0, None), "precision": (0, 1), "recall": (0, 1),
    "coverage": (0, 1), "density": (0, None), "truncation_gap": (0, None), "straightness": (0, None), "path_energy": (0, None),
    "transport_cost": (0, None), "curvature": (0, None), "inception_score": (1, None), "authenticity": (0, 1), "near_copies": (0, 1),
}  # fmt: skip


def cut(path, rows):
    """A committed result with its first rows only."""
    content = json.loads(json.dumps(result.read(RESULTS / path).to_json()))
    content["rows"] = content["rows"][:rows]
    return content


KINDS = {
    "vector": ("transport-2d/gaussian-moons/fm.json", "transport-2d/gaussian-moons/cfm.json", 3),
    "image": ("digits/digits/ot-cfm.json", "digits/digits/cfm.json", 2),
    "anchor": ("quick/gaussian-moons/oracle.json", "quick/gaussian-moons/data.json", 1),
}


# -- changes ---------------------------------------------------------------------------------------------------------------


def places(value, way=()):
    """Every place in nested data, as the keys that lead to it."""
    if way:
        yield way
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(item, (*way, key))


def holder(content, way):
    for key in way[:-1]:
        content = content[key]
    return content


def junk(rng):
    pool = rng.choice([TEXTS, NUMBERS, OTHERS])
    return copy.deepcopy(rng.choice(pool))


def another(rng, value):
    """A value near the one that is there: another number, other text, a changed list."""
    if isinstance(value, bool):
        return rng.choice([not value, str(value).lower(), int(value), None])
    if isinstance(value, int | float):
        return rng.choice(
            [
                -value,
                value * 1.001,
                value * 1e12,
                value + 1,
                str(value),
                [value],
                math.floor(value) if abs(value) < 1e9 else 0,
            ]
        )
    if isinstance(value, str):
        return rng.choice([value.upper(), value + "\n", value[:-1], "../" + value, value + "/x", [value]])
    if isinstance(value, list):
        return rng.choice([value[::-1], value + value[:1], value[:-1], [value], dict(enumerate(value))])
    return junk(rng)


def change(rng, content):
    """One change of parsed data in place."""
    way = rng.choice(list(places(content)))
    table, key = holder(content, way), way[-1]
    what = rng.choice(["junk", "another", "another", "delete", "duplicate", "rename", "swap", "nest"])
    if what == "junk":
        table[key] = junk(rng)
    elif what == "another":
        table[key] = another(rng, table[key])
    elif what == "delete":
        del table[key]
    elif what == "duplicate":
        if isinstance(table, list):
            table.insert(key, copy.deepcopy(table[key]))
        else:
            table[key + rng.choice(["2", " ", "\u202e", "<script>"])] = copy.deepcopy(table[key])
    elif what == "rename" and isinstance(table, dict):
        table[rng.choice([t for t in TEXTS if t])] = table.pop(key)
    elif what == "swap":
        other = rng.choice(list(table) if isinstance(table, dict) else range(len(table)))
        table[key], table[other] = table[other], table[key]
    else:
        for _ in range(rng.choice([1, 3, 60])):
            table[key] = [table[key]]


def damage(rng, data):
    """One change of the bytes of a file."""
    at = rng.randrange(len(data))
    what = rng.choice(["cut", "flip", "insert", "remove", "twice", "literal"])
    if what == "cut":
        return data[:at]
    if what == "flip":
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    if what == "insert":
        return data[:at] + rng.choice([b"\0", b"\xff\xfe", b"}", b"]", b'"', b"[" * 3000, b"\n", b"1"]) + data[at:]
    if what == "remove":
        return data[:at] + data[at + rng.randrange(1, 40) :]
    lines = data.split(b"\n")
    line = rng.randrange(len(lines))
    if what == "twice":
        return b"\n".join([*lines[: line + 1], *lines[line:]])
    numbers = list(re.finditer(rb"-?\d+\.\d+", data))
    number = rng.choice(numbers)
    wrong = rng.choice([b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"9" * 5000, b"0x10", b"1e", b"-1.5"])
    return data[: number.start()] + wrong + data[number.end() :]


def mutated(rng, content):
    """The bytes of a file that was changed somewhere."""
    content = copy.deepcopy(content)
    by_bytes = rng.random() < 0.3
    if not by_bytes:
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            change(rng, content)
    data = json.dumps(content, indent=2).encode()
    return damage(rng, data) if by_bytes and data else data


# -- laws ------------------------------------------------------------------------------------------------------------------


def is_number(x):
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)


def require_estimate(name, e, seeds):
    value, per_seed = e["value"], e["details"].get("per_seed") if "details" in e else None
    assert (value is None) == isinstance(e.get("reason"), str)
    if value is None:
        assert e.get("ci") is None
        return
    assert is_number(value)
    assert isinstance(e["n"], int)
    assert e["n"] >= 1
    low, high = RANGES.get(name, (None, None))
    assert low is None or value >= low
    assert high is None or value <= high
    if e.get("ci") is not None:
        below, above = e["ci"]
        assert below <= above
        slack = 1e-6 * max(abs(below), abs(above))
        assert below - slack <= value <= above + slack
    if per_seed is not None:
        assert len(per_seed) == len(seeds)
        assert abs(statistics.fmean(per_seed) - value) <= 1e-6 * max(map(abs, per_seed))


def require_lawful(content):
    """The laws of a result, from its raw data."""
    plain = r"[A-Za-z0-9_+=.,-][A-Za-z0-9_+=., -]*"
    assert content["schema"] == 1
    assert isinstance(content["ranked"], bool)
    assert not (content["ranked"] and content.get("unranked_because"))
    assert content.get("status", "rerun") in ("claimed", "rescored", "rerun", "replicated")
    assert isinstance(content["model"].get("conditional", False), bool)
    parameters = content["model"].get("parameters")
    assert parameters is None or (type(parameters) is int and parameters >= 0)
    for name in (content["benchmark"]["name"], content["task"]["name"], content["model"]["name"].rpartition("/")[2]):
        assert re.fullmatch(plain, name), name
    assert content["model"]["name"].rpartition("/")[0] == content["task"]["name"]
    assert re.fullmatch("[0-9a-f]{64}", content["benchmark"]["sha256"])
    seeds = content["seeds"]
    assert seeds
    assert len(set(seeds)) == len(seeds)
    assert all(type(s) is int and s >= 0 for s in seeds)
    assert type(content["samples_per_seed"]) is int
    assert content["samples_per_seed"] >= 1
    samplers = [(row["solver"], row["steps"], row["guidance"]) for row in content["rows"]]
    assert samplers
    assert len(set(samplers)) == len(samplers)
    for row in content["rows"]:
        assert row["steps"] is None or (type(row["steps"]) is int and 1 <= row["steps"] <= 100_000)
        assert is_number(row["guidance"])
        assert all(is_number(count) and count >= 0 for count in row["nfe"].values())
        for name, estimate in row["metrics"].items():
            require_estimate(name, estimate, seeds)
            assert not row.get("failed") or estimate["value"] is None
    for name, estimate in content["flow"].items():
        require_estimate(name, estimate, seeds)


# -- the test --------------------------------------------------------------------------------------------------------------


def build(board, capsys):
    """Exit code, what `leaderboard build --json` printed, and the lines on standard error."""
    code = main(["leaderboard", "build", str(board), "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out), err.splitlines()


def table_lines(board, benchmark, entry):
    path = board / "tables" / f"{benchmark}.csv"
    with path.open(newline="") as file:
        return [line for line in csv.DictReader(file) if line["entry"] == entry]


def files(root):
    return {p.relative_to(root).as_posix() for p in root.rglob("*") if not p.is_dir()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_result_gives_tables_or_one_line(tmp_path, capsys, monkeypatch, kind):
    good_path, path, rows = KINDS[kind]
    good, base = cut(good_path, rows), cut(path, rows)
    benchmark, entry = good_path.split("/")[0], good_path.split("/")[2].removesuffix(".json")
    board = tmp_path / "in" / "side" / "board"
    for name in (good_path, path):
        (board / "results" / name).parent.mkdir(parents=True, exist_ok=True)
    (board / "results" / good_path).write_text(json.dumps(good))
    monkeypatch.chdir(board)
    code, written, said = build(board, capsys)
    assert (code, said) == (0, [])
    alone = table_lines(board, benchmark, entry)
    known = files(tmp_path) | {f"in/side/board/results/{path}"}
    accepted = 0
    rng = random.Random(f"results {kind}")
    changed = board / "results" / path
    for case in range(CASES):
        data = mutated(rng, base)
        changed.write_bytes(data)
        code, printed, said = build(board, capsys)
        assert printed == written, case
        assert files(tmp_path) == known, case
        assert table_lines(board, benchmark, entry) == alone, case
        assert entry in (board / "README.md").read_text()
        if code == 1:
            assert len(said) == 1, (case, said)
            assert said[0].startswith(f"fmbench: {changed}"), (case, said)
            assert len(said[0]) < 1000 + len(str(changed)), (case, said)
            assert said[0].isprintable(), (case, said)
            continue
        assert (code, said) == (0, []), case
        accepted += 1
        require_lawful(json.loads(data))
        for shown in ("README.md", "index.html", f"tables/{benchmark}.csv"):
            text = (board / shown).read_text()
            body = (
                text
                if shown != "index.html"
                else text.partition('type="application/json"')[2].partition("</script>")[0]
            )
            assert not [mark for mark in MARKS if mark in body and shown != f"tables/{benchmark}.csv"], (case, shown)
    assert 10 < accepted < CASES / 2, "the changes are neither all harmless nor all of one kind"


def test_a_result_with_the_name_of_a_path_is_nowhere_believed(tmp_path, capsys):
    """The same file in other places, and under names that lead elsewhere."""
    good_path, path, rows = KINDS["vector"]
    board = tmp_path / "board"
    content = json.dumps(cut(path, rows))
    for name in (good_path, path):
        (board / "results" / name).parent.mkdir(parents=True, exist_ok=True)
    (board / "results" / good_path).write_text(json.dumps(cut(good_path, rows)))
    build(board, capsys)
    before = {p: p.read_bytes() for p in board.rglob("*") if p.is_file()}
    task = (board / "results" / path).parent
    for name in (
        "other.json",
        "CFM.json",
        "cfm.json.json",
        ".cfm.json",
        "cfm\n.json",
        "cfm .json",
        "data.json",
        os.fsdecode(b"\xff.json"),
    ):
        (task / name).write_text(content)
        code, _, said = build(board, capsys)
        (task / name).unlink()
        assert code == 1
        assert len(said) == 1, said
        assert {p: p.read_bytes() for p in board.rglob("*") if p.is_file()} == before
    for field, wrong in (("benchmark", "../../x"), ("task", "../x"), ("benchmark", "/tmp/x"), ("task", "a/b")):
        bad = json.loads(content)
        bad[field]["name"] = wrong
        (board / "results" / path).write_text(json.dumps(bad))
        code, _, said = build(board, capsys)
        (board / "results" / path).unlink()
        assert code == 1
        assert "cannot name a" in said[0]
        assert {p: p.read_bytes() for p in board.rglob("*") if p.is_file()} == before


# -- files of schema 2 -----------------------------------------------------------------------------------------------------


def resealed(content):
    """Seals that fit, where the content can be sealed at all: what is to be found is behind them."""
    with contextlib.suppress(KeyError, TypeError, AttributeError, ValueError):
        content["seals"] = {
            name: file.seal(table, content["draws"].get(name), content["pins"])
            for name, table in content["cells"].items()
        }
    return content


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_whatever_is_in_a_file_is_a_result_or_one_line(kind, tmp_path):
    rng = random.Random(f"file {kind}")
    whole = json.loads((RESULTS / KINDS[kind][1]).read_text())
    for name in list(whole["draws"])[2:]:
        del whole["draws"][name], whole["cells"][name], whole["seals"][name]
    refused = 0
    for _ in range(CASES):
        content = copy.deepcopy(whole)
        for _ in range(rng.randint(1, 2)):
            change(rng, content)
        if isinstance(content, dict) and rng.random() < 0.8:
            resealed(content)
        path = tmp_path / "one.json"
        path.write_text(json.dumps(content))
        try:
            found = result.read(path)
        except ValueError as error:
            refused += 1
            assert str(error).startswith(str(path))
            assert "\n" not in str(error)
            assert len(str(error)) < 2000
            continue
        assert result.read(found.save(tmp_path)) == found
        assert result.read_intact(path) == found
    assert CASES / 4 < refused < CASES
