"""The trial: checks of every model on a few noises before its samples are scored; ``fmbench check`` runs the same items."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fmbench.execution.checked import checked_points
from fmbench.execution.foreign import foreign, isolated
from fmbench.execution.operators import OperatorMode, uncompiled
from fmbench.flows.audit import auditing
from fmbench.flows.evaluations import counting, require_counted
from fmbench.flows.flow import VELOCITY as VELOCITY_FIELD
from fmbench.flows.flow import Flow, as_draws, device_of
from fmbench.noise import Draws
from fmbench.records.sampler import Sampler
from fmbench.registry import SOLVERS
from fmbench.shapes import Labels, Points, as_condition
from fmbench.zoo.model import Model, evaluating

ROWS, STEPS = 16, 2
"""Noises of a trial, and the steps from each."""
SPLIT = 7
"""Size of the parts, no divisor of the whole."""
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""By which share of the largest value a row may move in another batch: kernels round differently, by the precision they compute in."""
TF32 = 5e-3
"""The same of float32 on a GPU, where convolutions keep 10 bits of a factor."""
LEAST = 0.01
"""Values below this share of the largest coordinate of ``x`` are compared with that instead: they move nothing, but round as the rest does."""


@dataclass(frozen=True)
class Subject:
    """The input of a trial: a flow, its noises with their labels, a cheap sampler it accepts, its tolerance, the shape of a sample."""

    method: Flow
    noise: Points
    labels: Labels | None
    sampler: Sampler
    tolerance: float
    shape: tuple[int, ...]

    def sample(self, rows: slice = slice(None)) -> Points:
        """Samples of some of the noises, checked, from copies of the noises."""
        labels = None if self.labels is None else self.labels[rows]
        start, stop, _ = rows.indices(len(self.noise))
        # Rows keep their numbers in a part of the batch: what else is drawn for them must be the same.
        return self.sample_from(Draws.given(self.noise.clone()).rows(start, stop), labels)

    def sample_from(self, noise: Draws | Points, labels: Labels | None) -> Points:
        """Samples of these noises, checked to be points like them."""
        noise = as_draws(noise)
        found = self.method.sample(noise, self.sampler, as_condition(labels))
        return checked_points(found, torch.empty((len(noise), *self.shape), device=self.noise.device), "the sample")

    @property
    def times(self) -> Tensor:
        """One time for every noise, both ends included."""
        return torch.linspace(0, 1, len(self.noise), device=self.noise.device)

    def velocity(self, rows: slice = slice(None)) -> Points:
        """The field at some of the noises, each at its own time, checked, from copies."""
        x, t = self.noise[rows].clone(), self.times[rows].clone()
        labels = None if self.labels is None else self.labels[rows]
        kept = x.clone(), t.clone()
        found = checked_points(self.method.velocity(x, t, as_condition(labels)), x)  # type: ignore[operator]
        _require(
            torch.equal(x, kept[0]) and torch.equal(t, kept[1]), "velocity changes x or t in place; work on a copy"
        )
        return found


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _apart(one: Points, other: Points) -> float:
    return float((one.detach().double() - other.detach().double()).abs().max())


def _slack(subject: Subject, values: Points) -> float:
    """Largest allowed difference of rows that should be equal, in the unit of ``values``."""
    scale = max(float(values.detach().abs().max()), LEAST * float(subject.noise.abs().max()))
    return subject.tolerance * scale


def _finite(subject: Subject) -> None:
    _require(bool(subject.sample().isfinite().all()), "sample() returned NaN or infinite values")


def _deterministic(subject: Subject) -> None:
    one, other = subject.sample(), subject.sample()
    gap = _apart(one, other)
    # Kernels of a GPU may add in any order.
    slack = 0.0 if one.device.type == "cpu" else _slack(subject, one)
    _require(
        gap <= slack, f"two calls of sample() on the same noise differ by {gap:.2g}; draw nothing at random in sample()"
    )


def _batch_independent(subject: Subject) -> None:
    whole = subject.sample()
    starts = range(0, len(whole), SPLIT)
    parts = torch.cat([subject.sample(slice(start, start + SPLIT)) for start in starts])
    gap = _apart(whole, parts)
    _require(
        gap <= _slack(subject, whole),
        f"samples depend on the batch they are in: they move by {gap:.2g} when the batch is split (batch norm?)",
    )


def _noise_untouched(subject: Subject) -> None:
    noise = subject.noise.clone()
    subject.sample_from(noise, subject.labels)
    _require(torch.equal(noise, subject.noise), "sample() changed its noise argument in place")


def _velocity(subject: Subject) -> None:
    v = subject.velocity()
    _require(bool(v.isfinite().all()), "velocity() is NaN or infinite for some t in [0, 1]")
    kept = v.clone()
    parts = [slice(3, 4), slice(SPLIT - 2, 2 * SPLIT - 2)]
    gaps = [_apart(v[rows], subject.velocity(rows)) for rows in parts]
    _require(
        torch.equal(v, kept), "velocity() overwrites what it returned before; return a tensor of its own every time"
    )
    _require(
        max(gaps) <= _slack(subject, v),
        f"velocity() does not take one time per sample, or depends on the batch: a row changes by {max(gaps):.2g} in a smaller batch",
    )


Item = tuple[str, Callable[[Subject], None]]
ITEMS: Sequence[Item] = (
    ("sample: shape and finite", _finite),
    ("sample: deterministic", _deterministic),
    ("sample: independent of the batch", _batch_independent),
    ("sample: noise untouched", _noise_untouched),
)
VELOCITY: Sequence[Item] = (("velocity: one time per sample, finite on [0, 1]", _velocity),)


def items(method: Flow) -> Sequence[Item]:
    """The items that apply to a method: (name, call), the call raising ValueError with the reason."""
    return (*VELOCITY, *ITEMS) if VELOCITY_FIELD in method.capabilities else ITEMS


class _Precisions(OperatorMode):
    """Collects the floating dtypes of operator outputs, the only place where autocast is visible."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in found if isinstance(found, tuple | list) else (found,):
            if isinstance(value, Tensor) and value.dtype in TOLERANCE:
                self.seen.add(value.dtype)
        return found


def _tolerance(method: Flow, noise: Points, labels: Labels | None, sampler: Sampler) -> float:
    """By the lowest precision that the method computes in, found by sampling two noises."""
    with _Precisions() as precisions:
        chosen = None if labels is None else labels[:2]
        method.sample(Draws.given(noise[:2].clone()), sampler, as_condition(chosen))
    on_gpu = TF32 if noise.device.type == "cuda" else 0.0
    return max(on_gpu, *(TOLERANCE[dtype] for dtype in (torch.float32, *precisions.seen)))


def cheap(method: Flow, samplers: Sequence[Sampler] = ()) -> list[Sampler]:
    """Samplers on a fixed grid that the flow accepts, a cheap one first, then those of a protocol."""
    fixed = [s for s in samplers if not SOLVERS.resolve(s.solver).adaptive and s.guidance == 1 and s.steps]
    known = [Sampler("euler", STEPS), method.default, *sorted(fixed, key=lambda s: s.steps or 0)]
    return [sampler for sampler in known if method.accepts(sampler) is None] or [method.default]


def subject(
    method: Flow, noise: Points, labels: Labels | None, samplers: Sequence[Sampler], shape: tuple[int, ...]
) -> Subject:
    """The method with the first of ``samplers`` that it can follow. Raises what sampling raises when it can follow none."""
    failures: list[Exception] = []
    for sampler in samplers:
        try:
            return Subject(method, noise, labels, sampler, _tolerance(method, noise, labels, sampler), shape)
        except Exception as error:
            failures.append(error)
    raise failures[0]


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Context that restores buffers. Raises ValueError when a parameter was changed inside."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    versions = [(name, p, p._version) for name, p in module.named_parameters()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)
    for name, parameter, version in versions:
        _require(parameter._version == version, f"the network changes its parameter {name} while it samples")


def audited(tried: Subject) -> None:
    """Sample once and look at every operator. Raises ValueError when evaluations would be missed: see :mod:`fmbench.flows.audit`."""
    flow = tried.method
    with (
        uncompiled(),
        counting(flow.networks(), tried.noise.ndim) as count,
        auditing(count, flow) as audit,
    ):
        tried.sample()
    audit.require(flow.outside)
    require_counted(count, sum(p.numel() for p in flow.parameters()))


def trial(model: Model, samplers: Sequence[Sampler] = ()) -> None:
    """Try a model on :data:`ROWS` noises before anything of it is timed or scored; leaves it, and the process, as they were.

    ``samplers`` are those of the protocol, for a model that cannot follow the cheap one. Raises ForeignError in one line that names the
    item that failed and why.
    """
    method, device = model.method, device_of(model.method)
    noise, labels = model.noise(0, ROWS, 0).to(device), model.labels(0, ROWS, 0)
    labels = None if labels is None else labels.to(device)
    # One isolation around all items: between two calls the generators must go on, or what is drawn from them would look determined.
    with isolated(), torch.no_grad(), foreign(), evaluating(method), unchanged(method):
        with foreign("sample"):
            tried = subject(method, noise, labels, cheap(method, samplers), model.task.shape)
        with foreign("evaluations"):
            audited(tried)
        for name, call in items(method):
            with foreign(name):
                call(tried)
