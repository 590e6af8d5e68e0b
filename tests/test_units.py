"""Stored samples of a broken run: used when they are what was written, made again otherwise."""

import pytest
import torch

from fmbench.evaluation import units

UNIT = (3, 2)


def a_unit(folder):
    """The file of a unit of three samples, and what it holds."""
    path = folder / "u.safetensors"
    made = units.stored(path, UNIT, lambda: units.Unit(torch.arange(6.0).reshape(UNIT), {"network": 3}))
    kept = units.stored(path, UNIT, lambda: pytest.fail("made twice"))
    assert torch.equal(made.samples, kept.samples)
    assert kept.counts == {"network": 3}
    return path


def made_again(path, shape=UNIT):
    return units.stored(path, shape, lambda: units.Unit(torch.zeros(shape), {"network": 9})).counts == {"network": 9}


@pytest.mark.parametrize("bit", range(0, 8, 3))
def test_a_unit_with_any_byte_changed_is_made_again(tmp_path, bit):
    whole = a_unit(tmp_path).read_bytes()
    path = tmp_path / "u.safetensors"
    for position in range(0, len(whole), 3):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ (1 << bit)]) + whole[position + 1 :])
        assert made_again(path), position


def test_a_unit_of_another_size_dtype_name_or_folder_is_made_again(tmp_path):
    """Each of these files is sound in itself, and would be other samples under this name."""
    from safetensors.torch import load_file, save_file

    path = a_unit(tmp_path)
    whole = path.read_bytes()
    assert made_again(path, (2, 2))
    path.write_bytes(whole)
    other = tmp_path / "v.safetensors"
    other.write_bytes(whole)
    assert made_again(other)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / path.name).write_bytes(whole)
    assert made_again(tmp_path / "elsewhere" / path.name)
    samples = load_file(path)["samples"]
    for changed in (samples.half(), samples.double(), samples[:2], samples.flip(0)):
        save_file({"samples": changed.contiguous()}, path, {"counts": '{"network": 3}'})
        assert made_again(path)
    for cut in (0, 40, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert made_again(path)
