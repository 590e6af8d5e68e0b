"""Sample files that somebody broke or built to break: each is read as NumPy and Pillow read it, or refused in one line that names it.

Seeded and bounded: some 1,000 files, each mutated from a sound one or built around one lie. Of every read it is also asked how much memory it
took, and of all of them together that nothing was written anywhere.
"""

from __future__ import annotations

import io
import json
import os
import random
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from sample_cases import FAMILIES, FREE, HIDDEN, MEBIBYTE, PNGS, SOUND

from fmbench.cli import main
from fmbench.storage import archives
from fmbench.storage.samples import read_array, read_samples

# -- what must hold ----------------------------------------------------------------------------------------------------


def as_others_read(path: Path, name: str | None) -> np.ndarray:
    """The array by NumPy, safetensors or Pillow alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return file[name]
        if path.suffix == ".safetensors":
            tensor = load_file(path)[name]
            return (tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor).numpy()
        with zipfile.ZipFile(path) as archive:
            names = sorted(n for n in archive.namelist() if n.lower().endswith(".png") and n not in HIDDEN)
            stacked = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(n)))) for n in names])
    return stacked[:, None] if stacked.ndim == 3 else stacked.transpose(0, 3, 1, 2)


def assert_one_line(message: str, path: Path) -> None:
    assert path.name in message or "picture " in message
    assert message.isprintable() and len(message) < 1000, message


def tree(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def most(size: int) -> int:
    """Bytes that reading a file of ``size`` may take: some copies of it, and of what any file may unpack to."""
    return 40 * size + 3 * FREE


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_read_as_it_is_or_refused_in_one_line(tmp_path, monkeypatch, family):
    monkeypatch.chdir(tmp_path)
    for name, limit in (("FREE", FREE), ("MOST_FILES", 2_000), ("DIRECTORY", MEBIBYTE)):
        monkeypatch.setattr(archives, name, limit)
    (tmp_path / "in").mkdir()
    accepted = refused = 0
    tracemalloc.start()
    try:
        for name, content in FAMILIES[family]():
            path = tmp_path / "in" / name
            path.write_bytes(content)
            before = tree(tmp_path)
            tracemalloc.reset_peak()
            start = tracemalloc.get_traced_memory()[0]
            found = None
            try:
                found = read_array(path)
                read_samples(path)
            except (ValueError, FileNotFoundError) as error:
                refused += 1
                assert_one_line(str(error), path)
            else:
                accepted += 1
            assert tracemalloc.get_traced_memory()[1] - start < most(len(content)), name
            assert tree(tmp_path) == before
            if found is not None:
                expected = as_others_read(path, found.facts.get("array"))
                assert found.array.shape == expected.shape, name
                with np.errstate(invalid="ignore"):
                    assert found.array.tobytes() == expected.astype(found.array.dtype).tobytes(), name
            path.unlink()
    finally:
        tracemalloc.stop()
    assert refused and (accepted or family == "bombs")
    assert family != "bombs" or not accepted


def test_the_cases_are_enough():
    assert sum(1 for family in FAMILIES if family != "bombs" for _ in FAMILIES[family]()) >= 600


def scored(words: list[str], capsys) -> tuple[int, str]:
    """Exit code and what `fmbench score` says of what went wrong."""
    code = main(["score", *words, "--metric", "mmd", "--json"])
    captured = capsys.readouterr()
    if code == 0:
        json.loads(captured.out)
    return code, captured.err


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "bombs"])
def test_the_command_scores_it_or_says_one_line(tmp_path, monkeypatch, capsys, family):
    """Every seventh file, as samples and as reference."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for name in ("u1.npy", "f8.npy"):
        (tmp_path / "in" / f"good-{name}").write_bytes(SOUND[name])
    codes = set()
    for index, (name, content) in enumerate(FAMILIES[family]()):
        if index % 7:
            continue
        path = tmp_path / "in" / name
        path.write_bytes(content)
        good = str(tmp_path / "in" / ("good-u1.npy" if "zip" in name or "u1" in name else "good-f8.npy"))
        before = tree(tmp_path)
        for words in ([str(path), "--reference", good], [good, "--reference", str(path)]):
            code, said = scored(words, capsys)
            codes.add(code)
            assert code in (0, 1), said
            assert said.count("\n") == (code == 1) and (code == 0) == (not said), said
            assert not said or said.startswith("fmbench: ")
        assert tree(tmp_path) == before
        path.unlink()
    assert 1 in codes


@pytest.mark.parametrize("seed", range(30))
def test_folders(tmp_path, seed):
    """Pictures beside pipes, links, and things with strange names: each is a picture, left out by name, or why the folder is refused."""
    draw = random.Random(seed)
    folder = tmp_path / "pictures"
    folder.mkdir()
    outside = tmp_path / "outside.png"
    outside.write_bytes(PNGS["0.png"])
    for name, content in PNGS.items():
        (folder / name).write_bytes(content)
    odd = draw.choice(("pipe", "link", "loop", "broken", "text", "folder", "up", "inside", "cut", "pipe.txt"))
    name = draw.choice(("x.png", "a\n.png", "\x1b[2J.png", "sub/y.png"))
    place = folder / name
    place.parent.mkdir(exist_ok=True)
    {
        "pipe": lambda: os.mkfifo(place),
        "pipe.txt": lambda: os.mkfifo(place.with_suffix(".txt")),
        "link": lambda: place.symlink_to(outside),
        "up": lambda: place.with_suffix("").symlink_to(tmp_path),
        "loop": lambda: place.symlink_to(place),
        "broken": lambda: place.symlink_to("nowhere.png"),
        "inside": lambda: place.symlink_to(folder / "0.png"),
        "text": lambda: place.with_suffix(".txt").write_text("x"),
        "folder": lambda: place.mkdir(),
        "cut": lambda: place.write_bytes(PNGS["0.png"][:50]),
    }[odd]()
    found, said = None, ""
    try:
        found = read_array(folder)
    except ValueError as error:
        said = str(error)
    if odd in ("pipe", "link", "loop", "broken", "cut"):
        assert found is None and said.isprintable() and "picture" in said
        return
    assert found is not None, said
    assert len(found.array) == len(PNGS) + (odd == "inside")
    assert ("left_out" in found.facts) == (odd in ("text", "up", "pipe.txt"))
