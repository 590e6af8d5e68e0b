"""Energy with an NVML of our own, whose device draws a known power; the reasons are real."""

import sys
import types

import pytest
import torch

from fmbench.evaluation.cost.energy import NvmlUnavailable, energy, nvml
from fmbench.evaluation.cost.latency import gpu_clock

CUDA = torch.device("cuda", 1)


class Board:
    """A GPU that draws ``idle`` watts always and ``work`` joules per call; its counter is in millijoules, its time is its own."""

    def __init__(self, idle=0.0, work=0.0, call_seconds=0.5):
        self.idle, self.work, self.call_seconds = idle, work, call_seconds
        self.now, self.joules, self.queued, self.calls, self.open = 0.0, 1234.5, 0, 0, 0

    def call(self):
        assert self.queued == 0, "called again without waiting for the device"
        self.queued += 1
        self.calls += 1

    def synchronise(self, device):
        assert device == CUDA
        self.now += self.queued * self.call_seconds
        self.joules += self.queued * (self.work + self.idle * self.call_seconds)
        self.queued = 0


@pytest.fixture
def board(monkeypatch):
    board = Board()
    fake = types.ModuleType("pynvml")

    class NVMLError(Exception):
        pass

    def opened(change):
        board.open += change

    def handle(uuid):
        if uuid != "GPU-8f6d":
            raise NVMLError("Not Found")
        return "handle"

    def counter(device):
        assert device == "handle" and board.open == 1
        if board.work is None:
            raise NVMLError("Not Supported")
        return round(1000 * board.joules)

    fake.NVMLError, fake.NVML_CLOCK_SM = NVMLError, 1
    fake.nvmlInit, fake.nvmlShutdown = lambda: opened(1), lambda: opened(-1)
    fake.nvmlDeviceGetHandleByUUID, fake.nvmlDeviceGetTotalEnergyConsumption = handle, counter
    fake.nvmlDeviceGetClockInfo = lambda device, kind: {("handle", 1): 1980}[device, kind]
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    board.uuid = "8f6d"
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(uuid=board.uuid))
    monkeypatch.setattr(torch.cuda, "synchronize", board.synchronise)
    yield board
    assert board.open == 0, "NVML was not shut down"


@pytest.mark.parametrize(("idle", "work"), [(0.0, 3.0), (80.0, 0.0), (100.0, 25.0)])
def test_joules_per_sample_and_mean_power_of_a_known_board(board, idle, work):
    board.idle, board.work = idle, work
    found = energy(board.call, CUDA, samples=16, seconds=2.0, clock=lambda: board.now)
    per_call = work + idle * board.call_seconds
    assert found["joules_per_sample"] == pytest.approx(per_call / 16, rel=1e-3)
    assert found["watts"] == pytest.approx(per_call / board.call_seconds, rel=1e-3)
    assert (found["repeats"], found["samples"], found["seconds"], found["reason"]) == (4, 64, 2.0, None)
    # The first call is not part of it.
    assert board.calls == 5


def test_one_call_is_measured_however_long_it_takes(board):
    board.work, board.call_seconds = 5.0, 60.0
    found = energy(board.call, CUDA, samples=1, seconds=0.0, clock=lambda: board.now)
    assert (found["repeats"], found["joules_per_sample"]) == (1, pytest.approx(5.0, rel=1e-3))


def test_a_counter_that_stands_still_or_is_not_supported_gives_its_reason(board):
    found = energy(board.call, CUDA, samples=1, clock=lambda: board.now)
    assert (
        found["joules_per_sample"] is None
        and found["reason"] == "the energy counter did not move in 2 s; measure for longer"
    )
    board.work, board.calls = None, 0
    found = energy(board.call, CUDA, samples=1)
    assert found == {"joules_per_sample": None, "reason": "NVML refuses: Not Supported"} and board.calls == 0
    board.uuid = "other"
    assert energy(board.call, CUDA, samples=1)["reason"] == "NVML refuses: Not Found"
    assert gpu_clock(CUDA) is None


def test_the_clock_of_the_device_and_a_prefixed_uuid(board):
    assert gpu_clock(CUDA) == 1980.0
    board.uuid = "GPU-8f6d"
    assert gpu_clock(CUDA) == 1980.0


def test_errors_of_the_call_are_not_swallowed_and_samples_are_checked(board):
    board.work = 1.0

    def broken():
        raise RuntimeError("the model is broken")

    with pytest.raises(RuntimeError, match="the model is broken"):
        energy(broken, CUDA, samples=1)
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        energy(board.call, CUDA, samples=0)


def test_a_processor_has_a_reason_and_runs_nothing():
    calls = []
    found = energy(lambda: calls.append(1), torch.device("cpu"), samples=1)
    assert found == {"joules_per_sample": None, "reason": "NVML knows NVIDIA devices only, got device 'cpu'"}
    assert not calls


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NvmlUnavailable, match="needs the package nvidia-ml-py"), nvml(CUDA):
        pass


def test_the_fake_has_the_names_of_the_real_module():
    real = pytest.importorskip("pynvml")
    names = [
        "NVMLError",
        "NVML_CLOCK_SM",
        "nvmlInit",
        "nvmlShutdown",
        "nvmlDeviceGetHandleByUUID",
        "nvmlDeviceGetClockInfo",
    ]
    for name in [*names, "nvmlDeviceGetTotalEnergyConsumption"]:
        assert hasattr(real, name), name
    assert real.NVML_CLOCK_SM == 1 and issubclass(real.NVMLError, Exception)
