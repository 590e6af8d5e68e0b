"""Protocols from anyone: mutated at random, each is either a protocol that can be carried out, or one line that names its file."""

from __future__ import annotations

import copy
import math
import random
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from fmbench.records import protocol
from fmbench.records.metric import METRICS
from fmbench.records.names import check_name
from fmbench.registry import SOLVERS, TASKS
from fmbench.storage.bundled import data_folder, list_benchmarks

CASES = 600
VALUES: list[Any] = [
    0, -1, 1, 2, 3, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, math.inf, math.nan, True, False, "", "8", "euler", "dopri5", "../../pyproject",
    "/tmp/x", "a/b", "data", "x" * 300, "na\u202eme", "name\n", ".", "..", ".hidden", "CON",
    [], [1], [0], [1, 1], [2, 1], [[1]], ["wasserstein2"],
    ["wasserstein2", "wasserstein2"], ["nothing"], ["gaussian-moons"], [{}], [{"solver": "euler"}], [{"solver": "euler", "steps": 0}],
    [{"solver": "dopri5", "steps": 3}], [{"solver": "euler", "steps": 2}, {"solver": "euler", "steps": 2}], {}, {"steps": 8}, {"name": "x"},
]  # fmt: skip
BUNDLED = [
    tomllib.loads((data_folder("leaderboard") / "protocols" / f"{n}.toml").read_text()) for n in list_benchmarks()
]


def places(table: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything in nested tables and lists."""
    items = table.items() if isinstance(table, dict) else enumerate(table) if isinstance(table, list) else ()
    return [p for key, value in items for p in ((*above, key), *places(value, (*above, key)))]


def mutated(content: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    content = copy.deepcopy(content)
    for _ in range(chance.randint(1, 2)):
        *above, key = chance.choice(places(content))
        table = content
        for step in above:
            table = table[step]
        kind = chance.randrange(4)
        if kind == 0:
            del table[key]
        elif kind == 1 and isinstance(table, dict):
            table[chance.choice(["stepz", "naem", "grid", key + "x" if isinstance(key, str) else "x"])] = chance.choice(
                VALUES
            )
        else:
            table[key] = copy.deepcopy(chance.choice(VALUES))
    return content


def require_usable(spec: protocol.Protocol) -> None:
    """What has to hold of every protocol that is accepted, said without the code that accepted it."""
    check_name(spec.name, "a benchmark")
    assert Path(spec.name).name == spec.name
    assert 1 <= spec.samples <= 10**8
    assert spec.seeds and len(set(spec.seeds)) == len(spec.seeds) and all(0 <= s < 2**32 for s in spec.seeds)
    assert spec.tasks and set(spec.tasks) <= set(TASKS.all())
    assert spec.metrics and set(spec.metrics) <= set(METRICS)
    assert spec.samplers and len({s.label for s in spec.samplers}) == len(spec.samplers)
    for sampler in spec.samplers:
        assert (sampler.steps is None) == SOLVERS.resolve(sampler.solver).adaptive
        assert sampler.times()[0] == 0
        assert math.isfinite(sampler.guidance)
    assert list(spec.latency["batches"]) == sorted(set(spec.latency["batches"])) and spec.latency["batches"][0] >= 1
    assert 0 <= spec.latency["seconds"] < math.inf
    assert all(v >= 1 for v in spec.flow.values()) and spec.flow["steps"] % 2 == spec.flow["probe_steps"] % 2 == 0
    for key, metric in spec.rank.items():
        assert metric >= 1 if key == "steps" else METRICS[metric].better != "neither"


def test_the_bundled_ones_are_usable() -> None:
    for name in list_benchmarks():
        require_usable(protocol.read(name))


@pytest.mark.slow
def test_a_mutated_protocol_is_usable_or_one_line(tmp_path: Path) -> None:
    chance, refused = random.Random(20), 0
    path = tmp_path / "mine.toml"
    for case in range(CASES):
        path.write_text(tomli_w.dumps(mutated(chance.choice(BUNDLED), chance)))
        try:
            require_usable(protocol.read(path))
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error), case
            assert str(path) in str(error), (case, str(error))
    assert CASES / 3 < refused < CASES


def test_damaged_bytes_are_one_line(tmp_path: Path) -> None:
    chance, path = random.Random(21), tmp_path / "mine.toml"
    whole = (data_folder("leaderboard") / "protocols" / "quick.toml").read_bytes()
    for case in range(300):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(bytes(data[: chance.choice([len(data), chance.randrange(len(data))])]))
        try:
            require_usable(protocol.read(path))
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error), (case, str(error))


@pytest.mark.parametrize("text", ["x = " + "[" * 5000 + "]" * 5000, "x" * (2 << 20), "a = {" * 200, "\x00"])
def test_hostile_text_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ValueError, match=r"mine\.toml") as caught:
        protocol.read(tmp_path / "mine.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [Path.mkdir, lambda p: p.symlink_to(p)])
def test_what_is_no_file_is_one_line(make: Any, tmp_path: Path) -> None:
    make(tmp_path / "mine.toml")
    with pytest.raises((ValueError, FileNotFoundError), match=r"mine\.toml"):
        protocol.read(tmp_path / "mine.toml")
