"""Repositories that mean harm: each is refused in one line, nothing runs, and nothing outside the caches is touched."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from model_hub import ModelHub
from repositories import Repo
from safetensors.torch import load_file

import fmbench
from fmbench import cli
from fmbench.storage import repository
from fmbench.storage.bundled import data_folder

ENTRY, NAME = "gaussian-moons/cfm", "evil/model"
SPEC = f"hf:{NAME}"
GOOD = {path.name: path.read_bytes() for path in (data_folder("zoo") / ENTRY).iterdir()}
HUNDRED_MB = 100 << 20


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.fixture(autouse=True)
def untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Nothing but the two caches is there afterwards, and what was there is as it was."""
    monkeypatch.chdir(tmp_path)
    secret = tmp_path / "secret"
    secret.write_text("mine")
    yield secret
    assert secret.read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} <= {"secret", "cache", "client", "token"}


def recipe(weights: bytes = GOOD["model.safetensors"], **changes: str) -> bytes:
    """The good recipe with the pins of other weights and with some lines replaced."""
    lines = []
    pins = {"sha256": json.dumps(hashlib.sha256(weights).hexdigest()), "bytes": str(len(weights)), **changes}
    for line in GOOD["recipe.toml"].decode().splitlines():
        key = line.partition(" = ")[0]
        lines.append(f"{key} = {pins.pop(key)}" if key in pins else line)
    assert not pins, pins
    return "\n".join(lines).encode()


def offered(models: ModelHub, **files: bytes) -> Repo:
    named = {name.replace("__", "."): data for name, data in files.items()}
    return models.contents.add(NAME, {**GOOD, **named})


def refusal(spec: str = SPEC, **options: bool) -> str:
    with pytest.raises((ValueError, OSError)) as failure:
        fmbench.load(spec, **options)
    assert "\n" not in str(failure.value) and len(str(failure.value)) < 1000
    return str(failure.value)


def header(table: dict, length: int | None = None, data: bytes = b"") -> bytes:
    text = json.dumps(table).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def test_a_pickle_under_the_name_of_safetensors_is_not_unpickled(models: ModelHub, tmp_path: Path) -> None:
    weights = pickle.dumps(Bomb(tmp_path / "exploded"))
    offered(models, model__safetensors=weights, recipe__toml=recipe(weights))
    assert "is no weight file" in refusal()


@pytest.mark.parametrize("suffix", ["bin", "pt", "pth", "ckpt", "pkl"])
def test_a_pickle_under_its_own_name_is_refused_with_the_command_that_converts_it(
    models: ModelHub, tmp_path: Path, suffix: str
) -> None:
    weights, name = pickle.dumps(Bomb(tmp_path / "exploded")), f"model.{suffix}"
    changed = recipe(weights).replace(b'"model.safetensors"', f'"{name}"'.encode())
    models.contents.add(NAME, {"recipe.toml": changed, name: weights})
    assert f"fmbench convert {name} --i-trust-this-file" in refusal()
    assert models.asked("GET", f"/{name}$") == 0


@pytest.mark.parametrize(
    "weights",
    [
        header({}, 1 << 60),
        header({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}),
        header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 4]}}, data=b"1234"),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}, data=b"1234"),
        header({"net.a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, data=b"1234"),
        b"",
        b"\xff" * 100,
    ],
    ids=["length", "tensor", "shape", "negative", "another net", "empty", "noise"],
)
def test_headers_that_lie_are_refused(models: ModelHub, weights: bytes) -> None:
    offered(models, model__safetensors=weights, recipe__toml=recipe(weights))
    refusal()


@pytest.mark.parametrize("name", ["../../../secret", "/etc/passwd", "a/b.safetensors", "..", ".hidden", "a\\\\b", "x*"])
def test_weights_cannot_lie_outside_the_folder(models: ModelHub, name: str) -> None:
    offered(models, recipe__toml=recipe(file=f'"{name}"'))
    assert "cannot name a weight file" in refusal()


@pytest.mark.parametrize("name", ["recipe.toml", "model.safetensors", "README.md"])
def test_what_is_listed_as_too_large_is_not_downloaded(models: ModelHub, name: str) -> None:
    repo = offered(models)
    row = {"size": HUNDRED_MB}
    repo.listed[name] = row if name != "model.safetensors" else {**row, "lfs": {**row, "oid": "0", "pointerSize": 1}}
    if name == "README.md":
        assert torch.equal(fmbench.load(SPEC).sample(4), fmbench.load(ENTRY).sample(4))
    else:
        assert "nothing was downloaded" in refusal()
    assert models.asked("GET", f"/resolve/.*/{name}$") == 0


def test_more_than_was_listed_is_cut_off(models: ModelHub) -> None:
    """A recipe of 20 MB that is listed with 600 bytes."""
    repo = offered(models, recipe__toml=GOOD["recipe.toml"] + b"#" * (20 << 20))
    repo.listed["recipe.toml"] = {"size": 600}
    assert "more than the announced 600 bytes" in refusal()
    left = [path for path in Path(constants.HF_HUB_CACHE).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in left) < 1 << 20


def test_a_list_without_end_is_not_read_to_its_end(models: ModelHub) -> None:
    repo = offered(models)
    repo.commit({**GOOD, **{f"{i}.txt": b"" for i in range(repository.MOST_FILES)}}, "many")
    assert "more than 10,000 files" in refusal()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("schema = 1", 'schema = 1\nrun = "import os"'),
        ("[method]", '[method]\n"__class__.__mro__" = 1'),
        ('task = "gaussian-moons"', 'task = "../../secret"'),
        ('task = "gaussian-moons"', 'task = "no-such-task"'),
        ('name = "cfm"', 'name = "os:system"'),
        ('name = "mlp"', 'name = "torch.nn:Linear"'),
        ("width = 64", "width = 1000000000"),
        ("depth = 3", "depth = 1e400"),
        ("parameters = 8706", "parameters = 1"),
        ("[net]", "[net"),
        ("[made]", "[made]\nx = " + "[" * 2000),
        ("sha256 = ", 'sha256 = "0"\nsha256 = '),
    ],
)
def test_recipes_that_are_none_are_refused(models: ModelHub, old: str, new: str) -> None:
    assert old.encode() in GOOD["recipe.toml"]
    offered(models, recipe__toml=GOOD["recipe.toml"].replace(old.encode(), new.encode(), 1))
    refusal()


@pytest.mark.parametrize("text", [b"\xff\xfe", b"\0" * 100, b"x = 1\n" * 1000, b""])
def test_recipes_that_are_no_text_are_refused(models: ModelHub, text: bytes) -> None:
    offered(models, recipe__toml=text)
    refusal()


def test_a_card_is_not_read_when_a_model_is_loaded(models: ModelHub, tmp_path: Path) -> None:
    bomb = b"---\nx: !!python/object/apply:os.system ['touch exploded']\n---\n{{ 7 * 7 }}"
    offered(models, README__md=bomb)
    assert torch.equal(fmbench.load(SPEC).sample(4), fmbench.load(ENTRY).sample(4))


@pytest.mark.parametrize("path", ["../evil.py", "/tmp/evil.py", "a/../../evil.py", "missing.py", ".x/evil.py"])
def test_trusted_code_cannot_lie_outside_the_folder(models: ModelHub, path: str) -> None:
    code = b"from pathlib import Path\nPath('exploded').touch()\n"
    repo = offered(models, recipe__toml=recipe().replace(b'name = "cfm"', f'name = "{path}:Evil"'.encode()))
    if path != "missing.py":
        repo.commits[repo.refs["main"]][path] = code
    refusal(f"{SPEC}@{repo.refs['main']}", trust_remote_code=True)


def test_names_that_leave_the_folder_are_never_asked_for(models: ModelHub) -> None:
    more = {"../../secret": b"evil", "/etc/evil": b"evil", "a/../../secret": b"evil"}
    models.contents.add(NAME, {**GOOD, **more})
    fmbench.load(SPEC)
    assert all("secret" not in path and "etc" not in path for _, path, _ in models.log)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_converting_a_checkpoint_runs_nothing_of_it(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also with the word of its user: what is no tensor is refused, what is one is written as it is."""
    here = tmp_path / "cache"
    here.mkdir()
    state = {"ema": {"w": torch.arange(6.0).view(2, 3).T, "b": torch.ones(2, dtype=torch.float16)}, "step": 7}
    torch.save(state, here / "good.pt")
    assert cli.main(["convert", str(here / "good.pt")]) == 2
    assert "--i-trust-this-file" in capsys.readouterr().err
    words = ["convert", str(here / "good.pt"), "--i-trust-this-file"]
    assert cli.main([*words, "--part", "ema"]) == 0
    found = load_file(here / "good.safetensors")
    assert set(found) == {"w", "b"} and torch.equal(found["w"], state["ema"]["w"])
    assert cli.main(words) == 1 and "is there already" in capsys.readouterr().err
    assert cli.main([*words, "-o", str(here / "all.safetensors")]) == 0
    assert "2 tensors, 1 other values dropped" in capsys.readouterr().out
    for part in ("no", "ema.w.x", "step"):
        assert cli.main([*words, "--part", part, "-o", str(here / "x.safetensors")]) == 1
    torch.save({"w": Bomb(tmp_path / "exploded")}, here / f"bad.{suffix}")
    (here / "worse.pkl").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    capsys.readouterr()
    for name in (f"bad.{suffix}", "worse.pkl"):
        assert cli.main(["convert", str(here / name), "--i-trust-this-file", "-o", str(here / "x.safetensors")]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "holds more than tensors" in line
    assert not (here / "x.safetensors").exists()


def test_a_link_in_the_cache_is_not_followed_to_its_end(models: ModelHub, untouched: Path) -> None:
    repo = offered(models)
    address = repository.Address(NAME, repo.refs["main"])
    fmbench.load(SPEC)
    weights = repository.snapshot_folder(address) / "model.safetensors"
    weights.unlink()
    weights.symlink_to(untouched)
    assert "removed from the cache" in refusal()
    assert not weights.is_symlink() and untouched.exists()
    assert torch.equal(fmbench.load(SPEC).sample(4), fmbench.load(ENTRY).sample(4))


def test_a_link_in_the_repository_is_a_file_of_the_wrong_size(models: ModelHub) -> None:
    """Git stores where a link points; a Hub hands that out as the content."""
    offered(models, model__safetensors=b"../../../../secret")
    assert "nothing was downloaded" in refusal()


@pytest.mark.parametrize("sha", ["../../../secret", "main", "", "g" * 40])
def test_a_commit_that_is_none_is_no_folder(models: ModelHub, sha: str, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = offered(models)
    repo.commits[sha] = repo.commits[repo.refs["main"]]
    repo.refs["main"] = sha
    refusal()
