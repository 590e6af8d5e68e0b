"""Files of samples that are broken or built around one lie: name and content, seeded."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image
from safetensors.numpy import save

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
