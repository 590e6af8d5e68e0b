"""Peak memory: what a call touches is seen, again and again; a CUDA device is played by a counter."""

from pathlib import Path

import pytest
import torch

from fmbench.evaluation.cost import memory
from fmbench.evaluation.cost.memory import is_out_of_memory, peak_memory, process_peak

CPU, MIB = torch.device("cpu"), 2**20
SIZE, SLACK = 96 * MIB, 8 * MIB

linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the high-water mark is Linux's")


def touch(size=SIZE):
    torch.ones(size, dtype=torch.uint8)


@linux
def test_growth_is_what_the_call_touches_every_time():
    touch()
    for size in (SIZE, SIZE // 2, SIZE):
        found = peak_memory(lambda size=size: touch(size), CPU)
        assert found["exact"] and abs(found["growth"] - size) < SLACK
        assert found["peak"] >= found["growth"]
    assert peak_memory(lambda: None, CPU)["growth"] < SLACK


@linux
def test_the_peak_is_of_what_is_held_at_once_and_of_touched_pages_only():
    def one_after_another():
        touch()
        touch()

    def at_once():
        return torch.ones(SIZE, dtype=torch.uint8), torch.ones(SIZE, dtype=torch.uint8)

    assert abs(peak_memory(one_after_another, CPU)["growth"] - SIZE) < SLACK
    assert abs(peak_memory(at_once, CPU)["growth"] - 2 * SIZE) < SLACK
    assert peak_memory(lambda: torch.empty(SIZE, dtype=torch.uint8), CPU)["growth"] < SLACK


@linux
def test_the_peak_of_the_process_survives_resets():
    touch()
    before = process_peak()
    small = peak_memory(lambda: None, CPU)["peak"]
    assert small < before <= process_peak()


def test_without_a_reset_only_a_new_record_is_seen(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "CLEAR", tmp_path / "missing" / "clear_refs")
    monkeypatch.setattr(memory, "STATUS", tmp_path / "missing" / "status")
    marks = iter([10 * MIB, 10 * MIB, 10 * MIB, 14 * MIB])
    monkeypatch.setattr(memory, "_high_water", lambda: next(marks) if reading else 10 * MIB)
    reading = False
    hidden = peak_memory(lambda: None, CPU)
    assert (hidden["growth"], hidden["peak"], hidden["exact"]) == (None, None, False)
    marks, reading = iter([0, 10 * MIB, 14 * MIB]), True
    record = peak_memory(lambda: None, CPU)
    assert (record["growth"], record["peak"], record["exact"]) == (4 * MIB, 14 * MIB, False)


def test_cuda_waits_resets_and_subtracts_what_was_there(monkeypatch):
    """An allocator with an old peak of 900 that holds 100; work is queued by the call and done when the device is waited for."""
    state = {"held": 100, "peak": 900, "queued": 0}

    def synchronise(device):
        state["peak"] = max(state["peak"], state["held"] + state["queued"])
        state["queued"] = 0

    device = torch.device("cuda", 3)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronise)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: state.update(peak=state["held"]))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: state["held"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: state["peak"])
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 512)
    found = peak_memory(lambda: state.update(queued=40), device)
    assert (found["peak"], found["growth"], found["reserved"]) == (140, 40, 512)


def test_out_of_memory_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as from_torch:
        torch.empty(2**58, dtype=torch.uint8)
    with pytest.raises(MemoryError) as from_python:
        bytearray(2**62)
    assert is_out_of_memory(from_torch.value) and is_out_of_memory(from_python.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("the list is out of memory"))
