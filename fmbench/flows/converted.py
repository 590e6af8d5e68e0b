"""Foreign networks of any parametrisation as velocity fields: what they predict, on which schedule, by which clock, on which grid."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor

from fmbench.flows.flow import as_draws
from fmbench.noise import Draws
from fmbench.paths import grids
from fmbench.paths.conversions import PREDICTS, linear_velocity, share_of_data
from fmbench.paths.preconditioning import preconditioned
from fmbench.paths.schedules import VE, Linear, Schedule, Trigonometric, schedule_of
from fmbench.records.sampler import Sampler
from fmbench.shapes import Condition, Points, Times, as_condition

Grid = Sequence[float] | Tensor | Callable[[int], Sequence[float] | Tensor]
ORDERS = ("xt", "tx")


@dataclass(frozen=True)
class Reading:
    """How a network is to be read.

    Attributes:
        predicts: one of :data:`~fmbench.paths.conversions.PREDICTS`.
        schedule: its path.
        time: the clock that its time argument shows.
        time_scale: factor of that argument: 1000 for networks that count in thousandths.
        arguments: "xt" for ``net(x, t)``, "tx" for ``net(t, x)``.
        grid: times that it is deployed with, from noise to data, or a function of the number of steps; on ``grid_clock`` before scaling.
        sigma_data: where the network is the raw one inside EDM's preconditioning, the deviation of the data; None for every other.
        clip: largest value of predicted data along the grid, None for no limit.
        start: deviation of the noise that the grid starts from, in the network's own scale; None for that of the schedule.
    """

    predicts: str
    schedule: Schedule
    time: str
    time_scale: float = 1.0
    arguments: str = "xt"
    grid: Grid | None = None
    grid_clock: str = ""
    sigma_data: float | None = None
    clip: float | None = None
    start: float | None = None

    @property
    def plain(self) -> bool:
        """Whether it is a velocity on the linear path already, with t = 1 at the data."""
        kinds = self.predicts == "velocity" and type(self.schedule) is Linear and self.time == "data_at_1"
        return kinds and self.time_scale == 1 and self.grid is None

    def velocity(self, call: Callable[[Points, Times], Points], x: Points, t: Times) -> Points:
        """The velocity on the linear path; a plain one is handed through bit by bit."""
        if self.plain:
            return call(x, t)
        return linear_velocity(self._denoiser(call), self.schedule, self.predicts, self.time, x, t, self.time_scale)

    def _denoiser(self, call: Callable[[Points, Times], Points]) -> Callable[[Points, Times], Points]:
        """The network as its words say it is: a raw one inside its preconditioning."""
        data = self.sigma_data
        if data is None:
            return call

        def denoise(y: Points, told: Times) -> Points:
            sigma = self.schedule.read(told.double() / self.time_scale, self.time)
            return preconditioned(lambda scaled: call(scaled, told), y, sigma, data)

        return denoise

    def times(self, steps: int) -> Tensor:
        """Times on the linear path, float64, that the grid stands for. Raises ValueError for a grid that is none, or of other steps."""
        assert self.grid is not None
        given = self.grid(steps) if callable(self.grid) else self.grid
        own = torch.as_tensor(given, dtype=torch.float64).flatten()
        if len(own) != steps + 1:
            raise ValueError(
                f"the grid of this model has {len(own)} times, which are {len(own) - 1} steps, not {steps}"
            )
        t = share_of_data(self.schedule, self.schedule.read(own, self.grid_clock or self.time))
        if not bool((t.diff() > 0).all()) or t[0] < 0 or t[-1] > 1:
            raise ValueError(f"a grid must run from noise to data, got the shares of data {t[0]:.4g} to {t[-1]:.4g}")
        return t

    def scales(self, steps: int) -> tuple[float, float]:
        """Factors: from unit noise to the linear path where the grid starts, and from that path to the network's own where it ends."""
        assert self.grid is not None
        given = self.grid(steps) if callable(self.grid) else self.grid
        own = torch.as_tensor(given, dtype=torch.float64).flatten()[[0, -1]]
        ends = self.schedule.read(own, self.grid_clock or self.time)
        a, m = self.schedule.coefficients(ends)
        start = float(self.schedule.start(ends)[0]) if self.start is None else self.start
        return start / float((a + m)[0]), float((a + m)[1])


def reading(
    predicts: str,
    schedule: str | Schedule,
    time: str | None,
    time_scale: float,
    arguments: str,
    grid: Any,
    sigma_data: float | None = None,
    clip: float | None = None,
) -> Reading:
    """A reading of these words; ``grid`` may also be a name or a scheduler of diffusers.

    Raises ValueError in one line for words that do not exist or do not go together.
    """
    if predicts not in PREDICTS:
        raise ValueError(f"predicts must be one of {', '.join(PREDICTS)}, got {predicts!r}")
    if arguments not in ORDERS:
        raise ValueError(f'arguments must be "xt" for net(x, t) or "tx" for net(t, x), got {arguments!r}')
    if isinstance(time_scale, bool) or not isinstance(time_scale, (int, float)) or not 0 < time_scale < 1e9:
        raise ValueError(f"time_scale must be a positive number, got {time_scale!r}")
    path = schedule_of(schedule)
    clock = path.clocks[0] if time is None else time
    path.require_clock(clock)
    if predicts == "edm" and not isinstance(path, VE):
        raise ValueError(
            f'predicts "edm" is a denoiser on the noise levels of EDM; give schedule="edm", got {schedule!r}'
        )
    if predicts == "v" and isinstance(path, (Linear, VE)):
        raise ValueError(
            f'predicts "v" needs a^2 + m^2 = 1, as of trig, vp and ddpm; {schedule!r} is none: is it a velocity?'
        )
    if predicts == "velocity" and not isinstance(path, (Linear, Trigonometric)) and clock != path.clocks[0]:
        raise ValueError(f'a velocity is by a clock; on {schedule!r} that is time="{path.clocks[0]}", got {clock!r}')
    if sigma_data is not None and (predicts != "edm" or not sigma_data > 0):
        raise ValueError(
            f'sigma_data, a positive number, is for the raw network of a denoiser, predicts="edm"; got {sigma_data!r}, {predicts!r}'
        )
    if clip is not None and (grid is None or not clip > 0):
        raise ValueError(f"clip, a positive number, limits predicted data along a grid; got {clip!r} and grid={grid!r}")
    steps, on = _grid(grid, path, clock)
    # Schedulers of diffusers start EDM from noise a little wider than its authors do.
    start = getattr(grid, "init_noise_sigma", None) if isinstance(path, VE) else None
    start = None if start is None else float(start)
    return Reading(predicts, path, clock, float(time_scale), arguments, steps, on, sigma_data, clip, start)


def _grid(given: Any, path: Schedule, clock: str) -> tuple[Grid | None, str]:
    """The grid and the clock that it is on. Raises ValueError for a name that is none, and for one of another kind of schedule."""
    if given is None or (isinstance(given, (Tensor, Sequence)) and not isinstance(given, str)):
        return cast("Grid | None", given), clock
    if isinstance(given, str):
        made = grids.named(given)
        on = clock if made is None else grids.CLOCKS[given]
        if on not in path.clocks:
            raise ValueError(f"grid {given!r} is of times by {on}, and this schedule has {', '.join(path.clocks)}")
        return made, on
    if callable(given):
        return cast("Grid", given), clock
    on = "sigma" if isinstance(path, VE) else "index" if "index" in path.clocks else "data_at_0"
    return grids.of_scheduler(given, on), on


class Deployed:
    """Sampling of a flow by the grid that its network is deployed with; mixed into a velocity flow that has a ``reading``."""

    reading: Reading

    def accepts(self, sampler: Sampler) -> str | None:
        """A reason for other solvers than euler and heun, and for other numbers of steps than the grid has."""
        if self.reading.grid is not None:
            if sampler.solver not in ("euler", "heun") or sampler.steps is None:
                return "this model was given a grid of times, which euler and heun step through"
            if self.reading.clip is not None and sampler.solver != "euler":
                return "this model clips the data that it predicts, which is defined for euler"
            try:
                self.reading.times(sampler.steps)
            except ValueError as error:
                return str(error)
        return super().accepts(sampler)  # type: ignore[misc]

    def sample(self, draws: Draws, sampler: Sampler, cond: Condition | None = None) -> Points:
        """Along the model's own grid: from its noisiest level, where the start points are scaled to that level, to its cleanest.

        A step of Euler is the same for all paths. Heun averages velocities, which are those of the linear path for networks on it, and
        elsewhere the slopes of x / a by the noise level m / a, as in EDM; the last step, to level 0, is one of Euler, as in EDM and diffusers.
        """
        if self.reading.grid is None:
            return super().sample(draws, sampler, cond)  # type: ignore[misc]
        if (reason := self.accepts(sampler)) is not None:
            raise ValueError(reason)
        cond = as_condition(cond)
        self.require_guidable(sampler.guidance, cond)  # type: ignore[attr-defined]
        field, start = self.field(cond, sampler.guidance), as_draws(draws).start()  # type: ignore[attr-defined]

        def velocity(x: Tensor, t: float) -> Tensor:
            at = torch.full((len(x),), t, dtype=start.dtype, device=x.device)
            return field(x.to(start.dtype), at).double()

        times = self.reading.times(sampler.steps or 1).tolist()
        step = self._step(sampler.solver)
        first, last = self.reading.scales(sampler.steps or 1)
        x = start.double() * first
        for t, later in pairwise(times):
            x = step(velocity, x, t, later)
        return (x * last).to(start.dtype)

    def _step(self, solver: str) -> Step:
        if self.reading.clip is not None:
            return functools.partial(_clipped, self.reading.clip)
        if solver == "euler":
            return _euler
        return _heun if type(self.reading.schedule) is Linear else _heun_by_level


Field = Callable[[Tensor, float], Tensor]
Step = Callable[[Field, Tensor, float, float], Tensor]


def _euler(velocity: Field, x: Tensor, t: float, later: float) -> Tensor:
    return x + (later - t) * velocity(x, t)


def _clipped(most: float, velocity: Field, x: Tensor, t: float, later: float) -> Tensor:
    """A step of Euler, t' D + (1 - t') E, with D clipped and E as it was: DDIM of diffusers with ``clip_sample``."""
    v = velocity(x, t)
    return later * (x + (1 - t) * v).clamp(-most, most) + (1 - later) * (x - t * v)


def _heun(velocity: Field, x: Tensor, t: float, later: float) -> Tensor:
    """Of the second order, but for the step to the data, where a schedule has its singular end."""
    if later == 1:
        return _euler(velocity, x, t, later)
    first = velocity(x, t)
    return x + (later - t) / 2 * (first + velocity(x + (later - t) * first, later))


def _heun_by_level(velocity: Field, x: Tensor, t: float, later: float) -> Tensor:
    """With y = x / t and the level (1 - t) / t: dy/dlevel is the predicted noise, x - t v."""
    if later == 1:
        return _euler(velocity, x, t, later)
    y, gap = x / t, (1 - later) / later - (1 - t) / t
    noise = x - t * velocity(x, t)
    ahead = (y + gap * noise) * later
    return (y + gap / 2 * (noise + ahead - later * velocity(ahead, later))) * later


def said(out: Any) -> Any:
    """The tensor in what a network returns: itself, or the field ``sample`` of diffusers' outputs; anything else as it is."""
    if isinstance(out, Tensor):
        return out
    found = getattr(out, "sample", None)
    return found if isinstance(found, Tensor) else out
