"""Pairs of samples are looked at on the device of the evaluation: shown on one that is not the CPU, with the numbers of the CPU beside it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from elsewhere import ELSEWHERE, Far, elsewhere
from torch import Tensor
from torch._subclasses import FakeTensorMode

from fmbench.evaluation.evaluation import Evaluation
from fmbench.evaluation.options import Options
from fmbench.metrics import kernel, memorisation, mmd, prdc, sliced
from fmbench.metrics.evidence import Evidence, of_samples
from fmbench.records import protocol
from fmbench.records.result import Estimate
from fmbench.registry import TASKS
from fmbench.transport import distances, placing
from fmbench.transport.distances import nearest, squared_distances
from fmbench.transport.placing import host, placed

THERE = str(ELSEWHERE)
MEASURES: dict[str, Callable[[Evidence], Estimate]] = {
    "precision": prdc.precision,
    "recall": prdc.recall,
    "density": prdc.density,
    "coverage": prdc.coverage,
    "kernel": kernel.measure,
    "mmd": mmd.measure,
    "authenticity": memorisation.measure,
    "ct": memorisation.measure_ct,
    "copies": memorisation.measure_copies,
    "sliced": sliced.measure,
}
CLOSE = 1e-9
"""Relative difference that the order of sums may make, as between two machines."""


def clouds(dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Generated, real and held-out points far from 0, with copies of real points among the generated and among themselves."""
    random = np.random.default_rng(dim)
    x, y, held = (random.normal(size=(n, dim)) + 5 for n in (150, 130, 90))
    x[:10], y[-10:] = y[:10], y[:10]
    return x, y, held


def evidence(dim: int, device: str, fresh: bool = False) -> Evidence:
    x, y, held = clouds(dim)
    return of_samples(x, y, features=lambda a: a, heldout=held, fresh_reference=fresh, sha256="hash", device=device)


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of arrays that squared distances were asked for, and no others."""
    seen: list[str] = []

    def watched(x, y):
        seen.append(type(x).__name__)
        return squared_distances(x, y)

    for module in (distances, prdc, mmd):
        monkeypatch.setattr(module, "squared_distances", watched)
    return seen


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("dim", [2, 80])
@pytest.mark.parametrize("name", MEASURES)
def test_metrics_elsewhere_are_those_of_the_cpu(name, dim, fresh):
    here = MEASURES[name](evidence(dim, "cpu", fresh))
    with elsewhere():
        there = MEASURES[name](evidence(dim, THERE, fresh))
    assert there.value == pytest.approx(here.value, rel=CLOSE)
    assert there.ci == pytest.approx(here.ci, rel=1e-6)
    assert there.replicates == pytest.approx(here.replicates, rel=1e-7)
    assert there.details == here.details


@pytest.mark.parametrize("name", [name for name in MEASURES if name not in ("kernel", "sliced")])
def test_every_distance_is_computed_there(name, products):
    with elsewhere():
        MEASURES[name](evidence(80, THERE))
    known = 1 if name == "mmd" else 0  # the bandwidth, part of the metric's definition, is that of the CPU
    assert products.count("ndarray") == known
    assert products.count("Far") > 0


@pytest.mark.parametrize("dim", [1, 2, 63, 64, 200])
def test_distances_elsewhere_are_as_accurate(dim):
    """Copies are at distance exactly 0 there too, and near points far from 0 keep their digits."""
    x, y, _ = clouds(dim)
    y[50:60] = x[50:60] + 1e-7
    exact = ((x[:, None].astype(np.longdouble) - y[None].astype(np.longdouble)) ** 2).sum(axis=2)
    with elsewhere():
        found = host(squared_distances(placed(x, THERE), placed(y, THERE)))
        own = host(squared_distances(placed(y, THERE), placed(y, THERE)))
    np.testing.assert_allclose(found, exact.astype(np.float64), rtol=1e-11)
    assert (found[np.arange(10), np.arange(10)] == 0).all()
    assert not own.diagonal().any()


@pytest.mark.parametrize("dim", [2, 80])
def test_neighbours_elsewhere_are_those_of_the_cpu(dim):
    x, y, _ = (points[10:110] for points in clouds(dim))
    for given, k in (((x, y), 3), ((y,), 2)):
        here = nearest(*given, k=k, block=32)
        with elsewhere():
            there = nearest(*(placed(points, THERE) for points in given), k=k, block=32)
        assert (there.index == here.index).all()
        np.testing.assert_allclose(there.squared, here.squared, rtol=1e-11)


def test_points_on_the_cpu_are_not_copied():
    x = clouds(2)[0]
    assert placed(x, "cpu") is x


def test_an_array_among_tensors_elsewhere_is_found():
    """The check can fail."""
    x, y, _ = clouds(2)
    with elsewhere(), pytest.raises(RuntimeError, match="two devices"):
        squared_distances(placed(x, THERE), torch.tensor(y))


def test_torch_itself_sees_no_mixed_devices(monkeypatch):
    """Under torch's own fake CUDA tensors, which know more rules than ours and hold no numbers: what depends on numbers is left out."""
    seen: list[tuple[torch.device, torch.dtype]] = []

    def brought(values: Tensor) -> np.ndarray:
        seen.append((values.device, values.dtype))
        return np.zeros(values.shape, str(values.dtype).removeprefix("torch."))

    for module in (placing, distances, prdc, mmd):
        monkeypatch.setattr(module, "host", brought)
    monkeypatch.setattr("fmbench.transport.sliced.host", brought)
    monkeypatch.setattr(distances, "_restore", lambda *_: None)
    x, y, _ = clouds(80)
    cubic = kernel.polynomial_kernel(3, 1 / 80, 1.0, y.mean(axis=0))
    with FakeTensorMode(allow_non_fake_inputs=True):
        for dim in (2, 80):
            prdc.prdc(x[:, :dim], y[:, :dim], 3, device="cuda")
            prdc.recall_without_groups(x[:, :dim], y[:, :dim], 3, 5, "cuda")
            prdc.coverage_without_groups(x[:, :dim], y[:, :dim], 3, 5, device="cuda")
        for k in (cubic, kernel.polynomial_kernel(3, 1 / 80, 1.0), mmd.gaussian_kernel(2.0)):
            mmd.mmd_estimate(x, y, k, fresh_reference=True, device="cuda")
        memorisation.copied(x, y, device="cuda")
        sliced.sliced_wasserstein2(x, y, device="cuda")
    assert {device.type for device, _ in seen} == {"cuda"}
    assert {dtype for _, dtype in seen} == {torch.float64, torch.int64, torch.bool}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_evaluation_says_where(monkeypatch, device):
    """One place decides: the device of the options reaches the reference, and every metric by it."""
    monkeypatch.setattr("fmbench.evaluation.evaluation.resolve_device", lambda name: device)
    task = TASKS.resolve("gaussian-moons")()
    run = Evaluation(protocol.read("quick"), task, None, Options(limit=256), None, None)
    found = run.scorer.evidence(task.anchor(256, 0), 0)
    assert found.device == found.real.device == device


def test_far_points_are_far():
    with elsewhere():
        assert isinstance(placed(np.ones((2, 2)), THERE), Far)
