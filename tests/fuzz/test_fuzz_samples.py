"""Sample files that somebody broke or built to break: each is read as NumPy and Pillow read it, or refused in one line that names it.

Seeded and bounded: some 1,000 files, each mutated from a sound one or built around one lie. Of every read it is also asked how much memory it
took, and of all of them together that nothing was written anywhere.
"""

from __future__ import annotations

import io
import json
import os
import random
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save
from safetensors.torch import load_file

from fmbench.cli import main
from fmbench.storage import archives
from fmbench.storage.samples import read_array, read_samples

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(20, 3))
PIXELS = RNG.integers(0, 256, (6, 1, 6, 4), dtype=np.uint8)
MEBIBYTE = 1 << 20
FREE = 16 * MEBIBYTE
"""What any file may unpack to here; the default is more than a quick test should take."""
Case = tuple[str, bytes]
"""Name of a file and its content."""


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(pack: Callable = np.savez, **arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    pack(buffer, **arrays)
    return buffer.getvalue()


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def zipped(files: dict[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


PNGS = {f"{i}.png": png(image[0]) for i, image in enumerate(PIXELS)}
SOUND: dict[str, bytes] = {
    "f8.npy": npy(VECTORS),
    "f4.npy": npy(VECTORS.astype("f4")),
    "f2.npy": npy(VECTORS.astype("f2")),
    "big.npy": npy(VECTORS.astype(">f8")),
    "columns.npy": npy(np.asfortranarray(VECTORS)),
    "i4.npy": npy((VECTORS * 100).astype("i4")),
    "u1.npy": npy(PIXELS),
    "one.npz": npz(arr_0=VECTORS),
    "packed.npz": npz(np.savez_compressed, samples=PIXELS, labels=np.arange(6)),
    "stats.npz": npz(arr_0=PIXELS, mu=np.zeros(3), sigma=np.eye(3)),
    "f4.safetensors": save({"x": VECTORS.astype("f4")}),
    "two.safetensors": save({"samples": PIXELS, "labels": np.arange(6)}),
    "pictures.zip": zipped(PNGS),
    "stored.zip": zipped(PNGS, zipfile.ZIP_STORED),
}


# -- mutations ---------------------------------------------------------------------------------------------------------


def flip(data: bytes, draw: random.Random) -> bytes:
    """Some bits turned over, most often near the start or the end, where headers and tables are."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8))):
        near = draw.choice((len(data), min(128, len(data)), -min(160, len(data))))
        position = draw.randrange(near) if near > 0 else len(data) + draw.randrange(near, 0)
        changed[position] ^= 1 << draw.randrange(8)
    return bytes(changed)


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def insert(data: bytes, draw: random.Random) -> bytes:
    position = draw.randrange(len(data) + 1)
    return data[:position] + draw.randbytes(draw.choice((1, 7, 300))) + data[position:]


def repeat(data: bytes, draw: random.Random) -> bytes:
    """A stretch copied over another place."""
    length = draw.randrange(1, 64)
    start, stop = draw.randrange(len(data)), draw.randrange(len(data))
    return data[:stop] + data[start : start + length] + data[stop + length :]


def mutated() -> Iterator[Case]:
    draw = random.Random(1)
    for name, data in SOUND.items():
        for index in range(56):
            change = (flip, flip, flip, cut, insert, repeat)[index % 6]
            yield f"{index:02d}-{name}", change(data, draw)


# -- lies --------------------------------------------------------------------------------------------------------------


def stating(header: str, data: bytes, version: tuple[int, int] = (1, 0)) -> bytes:
    """An .npy file with any header."""
    text = header.encode() + b"\n"
    return np.lib.format.magic(*version) + struct.pack("<H" if version == (1, 0) else "<I", len(text)) + text + data


HEADER = "{'descr': %s, 'fortran_order': %s, 'shape': %s}"
SHAPES = (
    "(10**9, 3)",
    "(1000000000, 3)",
    "(20, 3000000000)",
    "(-20, -3)",
    "(20,)",
    "()",
    "(0, 3)",
    "(0, 99999999999999999999)",
)
SHAPES += ("(True, 60)", "(20, 3, 1, 1, 1, 1)", f"({'1, ' * 70}60)", "[20, 3]", "20", "(20.0, 3)", "(6, 10)", "None")
DTYPES = (
    "'<f8'",
    "'>f8'",
    "'<f4'",
    "'<c16'",
    "'|O'",
    "'O'",
    "'<U8'",
    "'|S8'",
    "'<M8[s]'",
    "'<m8[s]'",
    "'|V8'",
    "'|b1'",
    "'<f16'",
)
DTYPES += (
    "[('a', '<f8')]",
    "[('a', '|O')]",
    "('<f8', (3,))",
    "'<i8'",
    "'|V99999999999'",
    "'float8'",
    "object",
    "8",
    "'<f8, <f8'",
)


def headers() -> Iterator[Case]:
    data = VECTORS.tobytes()
    for index, shape in enumerate(SHAPES):
        for version in ((1, 0), (2, 0), (3, 0)):
            yield f"shape-{index}-{version[0]}.npy", stating(HEADER % ("'<f8'", False, shape), data, version)
    for index, dtype in enumerate(DTYPES):
        for order in (True, False):
            lie = stating(HEADER % (dtype, order, "(20, 3)"), data)
            yield f"dtype-{index}-{order}.npy", lie
            yield f"dtype-{index}-{order}.npz", zipped({"arr_0.npy": lie})
    for index, text in enumerate(
        ("", "{}", "(" * 4000, "{'a': " * 900, "[" * 9000, "1" * 9999, "x" * 60_000, "\0" * 50, "'\n\x1b[31m'")
    ):
        yield f"text-{index}.npy", stating(text, data)
    yield "long.npy", np.lib.format.magic(2, 0) + struct.pack("<I", 2**32 - 1) + b" " * 100
    yield "several.npy", npy(VECTORS) + npy(VECTORS)


def tensor_file(header: object, data: bytes = b"\0" * 96, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor_headers() -> Iterator[Case]:
    good = {"dtype": "F32", "shape": [8, 3], "data_offsets": [0, 96]}
    shapes = ([10**12, 3], [2**63, 2], [-8, 3], [], [0, 3], "x", None, [8.0, 3], [True, 24])
    offsets = ([0, 10**12], [96, 0], [-8, 88], [0, 95], [8, 96], None, [0], ["0", 96])
    dtypes = {"F64": 4, "F8_E4M3": 32, "BF16": 16, "F16": 16, "BOOL": 32, "C64": 4, "U64": 4, "I8": 32, "NOPE": 8}
    lies: list[dict] = [{"shape": shape} for shape in shapes]
    lies += [{"data_offsets": pair} for pair in offsets]
    lies += [{"dtype": 3}, {"dtype": "F64"}, *({"dtype": name, "shape": [rows, 3]} for name, rows in dtypes.items())]
    for index, lie in enumerate(lies):
        yield f"lie-{index}.safetensors", tensor_file({"x": {**good, **lie}})
        yield f"lie-{index}-two.safetensors", tensor_file({"x": good, "y": {**good, **lie}})
    for index, header in enumerate(
        ([], {}, 3, None, {"x": 3}, {"x": {}}, {"__metadata__": {"a": 1}}, {"__metadata__": 3, "x": good})
    ):
        yield f"odd-{index}.safetensors", tensor_file(header)
    one = json.dumps(good).encode()
    yield "twice.safetensors", tensor_file(b'{"x": %s, "x": %s}' % (one, one))
    yield "deep.safetensors", tensor_file(b'{"x":' * 9000)
    yield (
        "names.safetensors",
        tensor_file({f"\n\x1b[31m{i}": {**good, "shape": [0, 3], "data_offsets": [0, 0]} for i in range(500)}, b""),
    )
    for length in (0, 2**64 - 1, 10**12, 200 * MEBIBYTE):
        yield f"length-{length}.safetensors", tensor_file({"x": good}, length=length)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def drawn(width: int, height: int, depth: int = 8, colour: int = 0, data: bytes = b"", extra: bytes = b"") -> bytes:
    """A PNG whose parts all have the right checksum, whatever they say."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


ROWS = b"\0" + b"\0\0\0\0" * 6
HOSTILE = (
    "../up.png",
    "/etc/x.png",
    "a\n.png",
    "\x1b[31m.png",
    "..\\x.png",
    "deep/" * 40 + "x.png",
    "x" * 300 + ".png",
    "é\u202e.png",
    ".png",
)
HIDDEN = ("..\\x.png", ".png")


def pictures() -> Iterator[Case]:
    grey = {depth: drawn(4, 6, depth, data=ROWS * 9) for depth in (0, 1, 2, 3, 4, 8, 16, 32)}
    colours = {colour: drawn(4, 6, 8, colour, ROWS * 9) for colour in (1, 2, 3, 4, 5, 6)}
    huge = [
        drawn(2**31 - 1, 2**31 - 1),
        drawn(60_000, 60_000),
        drawn(10_000, 10_000, data=ROWS),
        drawn(0, 0),
        drawn(0, 5),
    ]
    extras = {
        b"tRNS": b"\0\0",
        b"acTL": struct.pack(">II", 2, 0),
        b"zTXt": b"k\0\0" + zlib.compress(bytes(10**7)),
        b"IHDR": struct.pack(">IIBBBBB", 9999, 9999, 8, 0, 0, 0, 0),
        b"abCd": b"anything",
    }
    more = [drawn(4, 6, data=ROWS, extra=chunk(kind, body)) for kind, body in extras.items()]
    others = [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", PNGS["0.png"][:-12], drawn(4, 6, 16, 2, ROWS * 9), drawn(4, 6)]
    built = [*grey.values(), *colours.values(), *huge, *more, *others]
    for index, picture in enumerate(built):
        yield f"png-{index}.zip", zipped({"a.png": picture})
        yield f"png-{index}-after.zip", zipped({**PNGS, "z.png": picture})
    for index, name in enumerate(HOSTILE):
        yield f"name-{index}.zip", zipped({**PNGS, name: b"no picture"})
        yield f"sound-name-{index}.zip", zipped({**PNGS, name: PNGS["0.png"]})
        yield f"name-{index}.npz", zipped({f"{name}.npy": npy(VECTORS), "b.npy": npy(VECTORS)})
        yield f"lossy-{index}.zip", zipped({**PNGS, f"{name}.jpg": b""})


def bombs() -> Iterator[Case]:
    """Small files that unpack to more than :data:`FREE`."""
    zeros = bytes(5 * FREE // 4)
    grown = zipped({"a.png": zeros})
    yield "grown.zip", grown
    yield "grown.npz", npz(np.savez_compressed, samples=np.zeros((len(zeros) // 24, 3)))
    denied = bytearray(grown)
    place = denied.rfind(b"PK\x01\x02")
    denied[place + 24 : place + 28] = struct.pack("<I", 1000)  # the table says that it unpacks to 1,000 bytes
    yield "denied.zip", bytes(denied)
    yield "nested.zip", zipped({"inner.zip": grown, "a.png": grown})
    yield "parts.zip", zipped({f"{i}.png": zeros[: FREE // 8] for i in range(10)})
    yield "bzip2.zip", zipped({"a.png": zeros}, zipfile.ZIP_BZIP2)
    yield "lzma.zip", zipped({"a.png": zeros}, zipfile.ZIP_LZMA)
    side = 2048
    yield (
        "flat.zip",
        zipped({f"{i}.png": drawn(side, side, data=bytes((side + 1) * side)) for i in range(8)}, zipfile.ZIP_STORED),
    )
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0) + b"a.png"
    for count in (3_000, 300_000):
        table = entry * count
        end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(table), 0, 0)
        yield f"many-{count}.zip", table + end


FAMILIES = {
    "mutated": mutated,
    "headers": headers,
    "tensor_headers": tensor_headers,
    "pictures": pictures,
    "bombs": bombs,
}


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
