"""What a cache lost a bit of is made again: never another number. Seeded and bounded."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fmbench.features.extractor import Extractor, Rgb
from fmbench.features.store import reference_features
from fmbench.registry import TASKS
from fmbench.storage import tensors

TENSORS = {
    "samples": torch.arange(24.0).reshape(6, 4),
    "labels": torch.arange(6),
    "half": torch.ones(3, dtype=torch.bfloat16),
}
FACTS = {"counts": '{"network": 24}'}


def broken(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Flipped bits, missing ends, inserted and repeated stretches."""
    draw = random.Random(seed)
    for index in range(count):
        position = draw.randrange(len(data))
        match index % 4:
            case 0 | 1:
                yield data[:position] + bytes([data[position] ^ 1 << draw.randrange(8)]) + data[position + 1 :]
            case 2:
                yield data[:position]
            case _:
                yield data[:position] + draw.randbytes(draw.choice((1, 8))) + data[position:]


def test_a_file_of_tensors_gives_what_was_written_or_nothing(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors.write(path, TENSORS, FACTS)
    whole = path.read_bytes()
    found = tensors.read(path)
    assert found is not None and found.facts == FACTS and set(found.tensors) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert found.tensors[name].dtype == tensor.dtype and torch.equal(found.tensors[name], tensor)
    for content in broken(whole, 400, 0):
        path.write_bytes(content)
        assert tensors.read(path) is None


@pytest.mark.parametrize("change", ["shape", "dtype", "rename", "swap", "drop", "add", "facts", "seal", "no seal"])
def test_a_sound_file_that_says_something_else_is_nothing(tmp_path, change):
    """Each is a file that any reader of safetensors takes; only the hash of what was written tells them apart."""
    from safetensors import safe_open

    path = tmp_path / "a.safetensors"
    tensors.write(path, TENSORS, FACTS)
    with safe_open(path, "pt") as file:
        facts = dict(file.metadata())
    held = load_file(path)
    match change:
        case "shape":
            held["samples"] = held["samples"].reshape(4, 6)
        case "dtype":
            held["samples"] = held["samples"].view(torch.int32)
        case "rename":
            held["other"] = held.pop("samples")
        case "swap":
            held["samples"] = held["samples"].flip(0).contiguous()
        case "drop":
            del held["half"]
        case "add":
            held["more"] = torch.zeros(1)
        case "facts":
            facts["counts"] = '{"network": 12}'
        case "seal":
            facts["sha256"] = "0" * 64
        case _:
            del facts["sha256"]
    save_file(held, path, facts)
    assert tensors.read(path) is None


class Counting:
    """Pooled pixels as features, and how many images they were asked of."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        self.seen += len(x)
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1), None


@pytest.fixture(scope="module")
def task():
    return TASKS.resolve("digits")()


def extractor(network: Counting) -> Extractor:
    return Extractor("tiny", "0" * 64, network, Rgb(8, "bilinear", (128.0,) * 3, (128.0,) * 3), chunk=512)


def restated(record: Path, data: Path) -> Iterator[tuple[bytes, bytes]]:
    """Records beside features that say another shape, hash or extractor, and one that is another file's."""
    stated, content = json.loads(record.read_text()), data.read_bytes()
    width, rows = stated["features"], stated["n"]
    for change in (
        {"n": rows // 2},
        {"n": rows * 2, "features": width // 2},
        {"features": width // 2},
        {"n": True},
        {"n": -1},
        {"seal": ""},
    ):
        yield json.dumps({**stated, **change}).encode(), content
    for text in (b"", b"[]", b"{}", b"3", b"null", b'{"seal": 3}', b"\xff"):
        yield text, content


@pytest.mark.slow
def test_damaged_features_are_made_again(task, tmp_path):
    network = Counting()
    made = extractor(network)
    features = np.array(reference_features(task, made, tmp_path))
    (data,), (record,) = (list(tmp_path.glob(f"*{end}")) for end in (".f32", ".json"))
    files = {path: path.read_bytes() for path in (data, record)}
    damages = [{data: content} for content in broken(files[data], 12, 1)]
    damages += [{record: content} for content in broken(files[record], 24, 2)]
    damages += [{record: text, data: content} for text, content in restated(record, data)]
    for damage in damages:
        for path, content in {**files, **damage}.items():
            path.write_bytes(content)
        network.seen = 0
        again = reference_features(task, made, tmp_path)
        assert again.shape == features.shape and again.tobytes() == features.tobytes()
        assert network.seen or record in damage
