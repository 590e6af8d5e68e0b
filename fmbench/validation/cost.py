"""Cases of the cost figures: evaluations and operations are counted, times are read from a clock moved by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fmbench.evaluation.cost.flops import flops_per_call
from fmbench.evaluation.cost.latency import measure_latency
from fmbench.evaluation.cost.memory import peak_memory
from fmbench.flows.evaluations import counted_as, counting
from fmbench.registry import SOLVERS
from fmbench.solvers.base import uniform_grid
from fmbench.validation.check import Check, exact, unvalidated

STAGES = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}
SAMPLES = 6


class _Small(nn.Module):
    """A two-layer field that counts its own calls."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 2)
        generator = torch.Generator().manual_seed(0)
        for weight in self.parameters():
            weight.data = torch.randn(weight.shape, generator=generator)
        self.calls = 0

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocity at (n, 2) points and (n,) times."""
        self.calls += 1
        return self.last(torch.tanh(self.first(torch.cat([x, t[:, None]], dim=1))))


@torch.no_grad()
def _nfe() -> Iterator[Check]:
    x0 = torch.linspace(-1, 1, 2 * SAMPLES).reshape(SAMPLES, 2)
    for solver, stages in STAGES.items():
        for steps in (1, 7):
            net = _Small()
            with counting({"network": net}, 2) as count:
                SOLVERS.resolve(solver)().solve(net, x0, uniform_grid(steps))
            note = f"{stages} evaluations a step"
            yield exact("nfe", f"{solver}, {steps} steps", stages * steps, count.network / SAMPLES, note)
    net = _Small()
    with counting({"network": net}, 2) as count:
        SOLVERS.resolve("dopri5")().solve(net, x0, uniform_grid(1))
    got = count.network / SAMPLES
    yield exact("nfe", "dopri5", net.calls, got, "the calls the network counted itself, rejected steps among them")
    yield exact(
        "nfe", "dopri5, after the first 2, modulo 6", 0, (got - 2) % 6, "6 a step after choosing the first step size"
    )
    net = _Small()

    def guided(x: Tensor, t: Tensor) -> Tensor:
        with counted_as("guidance"):
            unconditional = net(x, t)
        return 2 * net(x, t) - unconditional

    with counting({"network": net}, 2) as count:
        SOLVERS.resolve("heun")().solve(guided, x0, uniform_grid(5))
    yield exact("nfe", "guided heun, 5 steps: network", 10, count.network / SAMPLES, "2 evaluations a step")
    yield exact("nfe", "guided heun, 5 steps: guidance", 10, count.guidance / SAMPLES, "as many again, counted apart")


def _flops() -> Iterator[Check]:
    linear, conv = _Small(), nn.Conv2d(4, 5, 3, padding=1)
    points, pictures = torch.zeros(SAMPLES, 2), torch.zeros(SAMPLES, 4, 8, 8)
    cases = (
        ("linear 3 -> 8 -> 2", linear, (points, torch.zeros(SAMPLES)), 2 * (3 * 8 + 8 * 2)),
        ("convolution 3 x 3, 4 -> 5 channels, 8 x 8", conv, (pictures,), 2 * 9 * 4 * 5 * 64),
    )
    for case, net, inputs, truth in cases:
        found = flops_per_call(net, lambda net=net, inputs=inputs: [net(*inputs) for _ in range(3)], SAMPLES)
        yield exact("flops", f"{case}, per evaluation", truth, found.per_evaluation, "two per multiply-add")
        yield exact("flops", f"{case}, 3 evaluations a sample", 3 * truth, found.per_sample, "three times as many")


def _latency() -> Iterator[Check]:
    """Checks of latency with a clock that only the sampler advances: five warm-ups of 1 s, then calls of 1, 2, ..., 101 ms."""
    name, now, calls = "latency", [0.0], [0]

    def sample() -> None:
        calls[0] += 1
        now[0] += 1.0 if calls[0] <= 5 else (calls[0] - 5) / 1000

    bounds: dict[str, Any] = {"least_warmup": 5, "most_warmup": 5, "least": 101, "most": 101}
    row = measure_latency(sample, torch.device("cpu"), SAMPLES, 1.0, clock=lambda: now[0], **bounds)
    for key, truth in (("p50", 0.051), ("p95", 0.096), ("p99", 0.1), ("iqr", 0.05), ("throughput", SAMPLES / 0.051)):
        yield exact(name, f"{key} of calls of 1 to 101 ms", truth, row[key], "a clock moved by hand; warm-ups left out")
    yield unvalidated(name, "on a real clock it is a property of the machine at that moment: no true value exists")


def _memory() -> Iterator[Check]:
    name, wanted, device = "peak_memory", 2**27, torch.device("cpu")
    peak_memory(lambda: torch.ones(16), device)
    found = peak_memory(lambda: torch.ones(wanted, dtype=torch.uint8), device)
    if found["exact"]:
        note = "pages touched by one tensor, the process's own included"
        yield exact(name, "growth by a tensor of 128 MiB", wanted, found["growth"], note, relative=0.05)
    yield unvalidated(name, "of a model it depends on allocator, libraries and platform: no closed form")


def _energy() -> Iterator[Check]:
    yield unvalidated("energy", "the device's own counter: nothing independent to hold it against")


CASES: dict[str, Callable[[], Iterator[Check]]] = {
    "nfe": _nfe,
    "flops": _flops,
    "latency": _latency,
    "peak_memory": _memory,
    "energy": _energy,
}
