"""A bundle carries models and data to another machine, whole and checked; one that means harm changes nothing there."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from model_hub import ModelHub
from server import HubServer
from tiny_dataset import Tiny

import fmbench
from fmbench import cli
from fmbench.features import builders
from fmbench.storage import archives
from fmbench.storage.bundled import data_folder
from fmbench.storage.cache import cache_root
from fmbench.tasks import hub_data
from fmbench.zoo import bundle, catalogue, machine
from fmbench.zoo.machine import needs

ENTRY, SPEC = "gaussian-moons/cfm", "hf:someone/moons"
SOURCE = data_folder("zoo") / ENTRY
FILES = {f"zoo/gaussian-moons/new/{path.name}": path.read_bytes() for path in SOURCE.iterdir()}


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Go to another machine: empty caches, no network."""

    def go() -> None:
        monkeypatch.setenv("FMBENCH_CACHE", str(tmp_path / "there" / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "there" / "client"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.delenv("FMBENCH_DATA", raising=False)

    return go


def pack(path: Path, content: dict[str, bytes], **changes: Any) -> Path:
    """A bundle of these files with a manifest that fits; ``changes`` are keys of the manifest."""
    rows = [{"path": n, "bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in content.items()]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", json.dumps({"schema": 1, "fmbench": "0", "files": rows, **changes}))
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(path: Path) -> str:
    """What an import says that changes nothing."""
    roots = (cache_root(), Path(constants.HF_HUB_CACHE), path.parent)
    before = [tree(root) for root in roots]
    with pytest.raises((ValueError, OSError)) as failure:
        bundle.load(path)
    assert [tree(root) for root in roots] == before
    assert "\n" not in str(failure.value) and str(path) in str(failure.value)
    return str(failure.value)


# -- there and back ------------------------------------------------------------------------------------------------


def test_what_was_bundled_works_on_a_machine_without_a_network(
    models: ModelHub, tmp_path: Path, elsewhere: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    repo = models.contents.add("someone/moons", {path.name: path.read_bytes() for path in SOURCE.iterdir()})
    pin, file = f"{SPEC}@{repo.refs['main']}", tmp_path / "some.zip"
    assert cli.main(["bundle", "export", str(file), SPEC, "digits/ot-cfm"]) == 0
    asked = len(models.log)
    elsewhere()
    with pytest.raises(ConnectionError, match="not on this machine"):
        fmbench.load(pin)
    assert cli.main(["bundle", "import", str(file)]) == 0
    assert torch.equal(fmbench.load(pin).sample(8), fmbench.load(ENTRY).sample(8))
    assert "were there already" in capsys.readouterr().out
    assert len(models.log) == asked
    assert bundle.load(file).added == ()


def test_an_imported_entry_is_an_entry_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: Callable[[], None]
) -> None:
    mine = tmp_path / "zoo" / "gaussian-moons" / "mine"
    shutil.copytree(SOURCE, mine)
    with monkeypatch.context() as patch:
        patch.setattr(catalogue, "data_folder", lambda name: tmp_path / "zoo" if name == "zoo" else data_folder(name))
        bundle.export(needs(["gaussian-moons/mine"]), tmp_path / "mine.zip")
    elsewhere()
    done = bundle.load(tmp_path / "mine.zip")
    assert len(done.added) == 3 and done.unverified == ()
    assert "gaussian-moons/mine" in fmbench.list_entries()
    assert torch.equal(fmbench.load("gaussian-moons/mine").sample(8), fmbench.load(ENTRY).sample(8))


def test_a_dataset_is_carried_and_its_pixels_are_checked(
    tiny: Tiny, serve: Callable[..., HubServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: Callable
) -> None:
    serve(tiny.root)
    first = np.array(hub_data.load(tiny.dataset, "train").images)
    bundle.export([machine._dataset(tiny.dataset, "train")], tmp_path / "data.zip")
    elsewhere()
    assert "is no dataset of this version" in refusal(tmp_path / "data.zip")
    folder, split = hub_data.cache_folder(tiny.dataset, "train"), tiny.dataset.split("train")
    monkeypatch.setattr(bundle, "known_splits", lambda: {folder: (tiny.dataset, split)})
    assert len(bundle.load(tmp_path / "data.zip").added) == 3
    np.testing.assert_array_equal(hub_data.load(tiny.dataset, "train").images, first)
    files = {f"cache/{folder.relative_to(cache_root())}/{path.name}": path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)
    name = next(name for name in files if name.endswith("images.npy"))
    files[name] = files[name][:-1] + bytes([files[name][-1] ^ 1])
    assert "SHA-256 expected" in refusal(pack(tmp_path / "other.zip", files))


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.zip", "two.zip"):
        bundle.export(needs([ENTRY]), tmp_path / name)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with pytest.raises(FileExistsError, match="is there already"):
        bundle.export(needs([ENTRY]), tmp_path / "one.zip")


def test_a_benchmark_brings_everything_it_needs(tmp_path: Path) -> None:
    found = {(need.kind, need.name) for need in needs(["mnist"])}
    assert {("dataset", "ylecun/mnist/train"), ("dataset", "ylecun/mnist/test"), ("entry", "mnist/mnist-cnn")} <= found
    assert ("entry", "mnist/ot-cfm") in found and ("entry", "digits/ot-cfm") not in found
    assert ("extractor", "inception-tf") in {(need.kind, need.name) for need in needs(["cifar10"])}
    assert {need.name for need in needs(machine.everything())} >= set(fmbench.list_entries())


def test_features_are_taken_as_they_are_or_left_out(tmp_path: Path) -> None:
    name = f"cache/features/{'a' * 64}.f32"
    path = pack(tmp_path / "x.zip", {**FILES, name: b"anything"})
    assert set(bundle.load(path, features=False).added) == set(FILES)
    assert bundle.load(path).unverified == (name,)


# -- harm ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/tmp/evil",
        "zoo/../../evil",
        "zoo/a/../../../recipe.toml",
        "zoo/gaussian-moons/new/evil.py",
        "zoo/gaussian-moons/new/model.pt",
        "zoo/gaussian-moons/new/sub/recipe.toml",
        "zoo/.hidden/new/recipe.toml",
        "cache/evil",
        "cache/features/evil.safetensors",
        "cache/datasets/a/b/evil.npy",
        "cache/weights/../../evil",
        "cache/code/a/b/evil.py",
        "hub/a/b/main/recipe.toml",
        "hub/a/b/" + "0" * 40 + "/evil.py",
        "C:\\evil",
        "zoo\\a\\b\\recipe.toml",
        "manifest.json/x",
    ],
)
def test_a_file_has_a_place_that_a_bundle_may_fill_or_is_refused(tmp_path: Path, name: str) -> None:
    assert "no place in a bundle" in refusal(pack(tmp_path / "x.zip", {**FILES, name: b"evil"}))


def test_links_are_refused(tmp_path: Path) -> None:
    path, name = pack(tmp_path / "x.zip", FILES), "zoo/gaussian-moons/new/model.safetensors"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "link.zip", "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename == name:
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            new.writestr(info, data)
    assert "is a link" in refusal(tmp_path / "link.zip")


def test_what_unpacks_to_far_more_than_it_is_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "FREE", 1 << 20)
    path = tmp_path / "bomb.zip"
    data = bytes(8 << 20)
    rows = [{"path": "cache/weights/x", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", json.dumps({"schema": 1, "fmbench": "0", "files": rows}))
        archive.writestr("cache/weights/x", data)
    assert "unpacks from" in refusal(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": 2}, "schema 2"),
        ({"more": 1}, "schema"),
        ({"files": []}, "does not name"),
        ({"files": [{"path": "zoo/a/b/recipe.toml"}]}, "a row that is none"),
        ({"files": [{"path": 1, "bytes": 1, "sha256": "x"}]}, "a row that is none"),
        ({"files": None}, "a row that is none"),
        ({"files": ["zoo/a/b/recipe.toml"]}, "a row that is none"),
    ],
)
def test_manifests_that_are_none_are_refused(tmp_path: Path, changes: dict, words: str) -> None:
    assert words in refusal(pack(tmp_path / "x.zip", FILES, **changes))


def test_a_file_that_is_not_what_the_manifest_says_is_refused(tmp_path: Path) -> None:
    rows = [{"path": n, "bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in FILES.items()]
    for change, words in (({"sha256": "0" * 64}, "its manifest says"), ({"bytes": 1}, "its manifest says")):
        wrong = [{**rows[0], **change}, *rows[1:]]
        assert words in refusal(pack(tmp_path / "x.zip", FILES, files=wrong))
    more = [*rows, {"path": "zoo/gaussian-moons/new/x.png", "bytes": 1, "sha256": "0"}]
    assert "has no bytes" in refusal(pack(tmp_path / "x.zip", FILES, files=more))


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "bit", "missing"])
def test_a_file_that_is_no_zip_or_damaged_is_refused(tmp_path: Path, damage: str) -> None:
    path = pack(tmp_path / "x.zip", FILES)
    data = bytearray(path.read_bytes())
    middle = data.find(FILES["zoo/gaussian-moons/new/model.safetensors"][:64]) + 20
    data[middle] ^= 1
    damaged = {"cut": data[: len(data) // 2], "noise": b"x" * 1000, "empty": b"", "bit": bytes(data)}
    path.unlink() if damage == "missing" else path.write_bytes(damaged[damage])
    refusal(path)


def test_an_entry_must_be_one_under_its_own_task(tmp_path: Path) -> None:
    place = "zoo/gaussian-moons/new"
    without = {n: d for n, d in FILES.items() if not n.endswith("safetensors")}
    assert "is missing" in refusal(pack(tmp_path / "x.zip", without))
    other = {
        **FILES,
        f"{place}/model.safetensors": (data_folder("zoo") / "gaussian-moons/fm/model.safetensors").read_bytes(),
    }
    assert "SHA-256 expected" in refusal(pack(tmp_path / "x.zip", other))
    moved = {n.replace("gaussian-moons", "digits"): d for n, d in FILES.items()}
    assert "it is for task gaussian-moons" in refusal(pack(tmp_path / "x.zip", moved))
    named = {n.replace("/new/", "/oracle/"): d for n, d in FILES.items()}
    refusal(pack(tmp_path / "x.zip", named))


def test_nothing_takes_the_place_of_something_else(tmp_path: Path) -> None:
    taken = {n.replace("/new/", "/fm/"): d for n, d in FILES.items()}
    assert "already, with other content" in refusal(pack(tmp_path / "x.zip", taken))
    bundle.load(pack(tmp_path / "y.zip", FILES))
    fm = data_folder("zoo") / "gaussian-moons" / "fm"
    again = {f"zoo/gaussian-moons/new/{path.name}": path.read_bytes() for path in fm.iterdir()}
    assert "already, with other content" in refusal(pack(tmp_path / "z.zip", again))


def test_the_weights_of_an_extractor_are_those_that_are_pinned(tmp_path: Path) -> None:
    for name in (builders.INCEPTION.filename, "unknown.pth"):
        assert "not the file of an extractor" in refusal(pack(tmp_path / "x.zip", {f"cache/weights/{name}": b"evil"}))


def test_a_disk_without_room_is_said_before_anything_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack(tmp_path / "x.zip", FILES)
    monkeypatch.setattr(bundle.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    assert "no space left" in refusal(path)
