"""Consistency models: training and distillation (Song et al., ICML 2023, 2303.01469) on the easy schedule (Geng et al., 2406.14548)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from fmbench.flows.consistency_map import ConsistencyMap
from fmbench.flows.flow import VELOCITY, Flow
from fmbench.methods.base import Batch, BatchSource, Method, keyed_dropout
from fmbench.methods.times import TimeLaw
from fmbench.paths.path import LinearPath
from fmbench.shapes import Condition, Points, Times, like, squared_norm
from fmbench.tasks.base import Task


class Consistency(ConsistencyMap, Method):
    """Consistency training: f has the same value at two points of one path, the later of which is held fixed.

    With the noise level ``sigma = (1 - t) / t`` of ``x_t / t = x1 + sigma x0`` and the later time s of a level ``sigma_s < sigma``, the loss is

        E sqrt(|f(x_t, t) - sg f(x_s, s)|^2 + c^2) / (sigma - sigma_s),    sigma_s = sigma max(0, 1 - n(sigma) / 2^k),

    ``n(sigma) = 1 + 8 sigmoid(-sigma)``: easy consistency tuning. In the first of ``last - first + 1`` equal parts of the training k is
    ``first``, in every later one it is 1 more. At first s = 1 for all but high noise, so that f learns to denoise; in the end neighbours are
    near. x_t and x_s share their pair: the noise of that is the price of having no teacher.

    Pitfalls: a constant f would be consistent; that f(x, 1) = x holds by its form rules it out. Near the end of the data the weight grows
    like 1 / sigma. The error with s = 1 is a distance, not its square, so early f is a median. The data scale enters by ``time_mean``:
    ``log sigma ~ N(-1.1, 2^2)`` is the paper's for data of standard deviation 0.5, which is ``time_mean`` = 1.1 - log(deviation / 0.5).
    Sampling in several steps adds noise in every step but the last.

    Args:
        net: network of one time.
        time_mean, time_std: of the logit-normal law of t, ``log sigma ~ N(-time_mean, time_std^2)``.
        first, last: halvings k at the beginning and at the end.
        huber: c / sqrt(dimensions); 0 is the distance itself.
    """

    summary = "map to the data with the same value along a path; neighbours come nearer in training"
    reference = "arXiv:2303.01469, arXiv:2406.14548"
    objective = "E sqrt(|f(x_t, t) - sg f(x_s, s)|^2 + c^2) / (sigma_t - sigma_s), f(x, t) = x + (1 - t) net(x, t)"
    gaussian_source_only = True
    path = LinearPath()

    def __init__(
        self,
        net: nn.Module,
        time_mean: float = 1.1,
        time_std: float = 2.0,
        first: int = 1,
        last: int = 8,
        huber: float = 0.0,
    ) -> None:
        Method.__init__(self, net)
        if not 1 <= first <= last:
            raise ValueError(f"[method] first and last must satisfy 1 <= first <= last, got {first} and {last}")
        if huber < 0:
            raise ValueError(f"[method] huber must be at least 0, got {huber}")
        self.law, self.first, self.last, self.huber = TimeLaw("logit-normal", time_mean, time_std), first, last, huber

    def later(self, t: Times, progress: float) -> Times:
        """The time s of the neighbour that is nearer to the data."""
        sigma, k = (1 - t) / t, self.first + int(progress * (self.last - self.first + 1))
        share = (1 + 8 * torch.sigmoid(-sigma)) / 2**k
        return 1 / (1 + sigma * (1 - share).clamp(min=0))

    def neighbour(self, x_t: Points, t: Times, s: Times, batch: Batch) -> Points:
        """The point at s on the path of the pair through ``x_t``."""
        return self.path.draw(batch.x0, batch.x1, s, torch.Generator())[0]

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """See the class; divided by the root of the number of dimensions."""
        size = batch.x1[0].numel()
        t = self.law.draw(len(batch.x1), generator).clamp(1e-3, 1 - 1e-3).to(batch.x1.device)
        s = self.later(t, batch.progress)
        x_t, _ = self.path.draw(batch.x0, batch.x1, t, generator)
        masks = generator.get_state()
        with torch.no_grad(), keyed_dropout(self.net, x_t.device, generator):
            target = self.data(self.neighbour(x_t, t, s, batch), s, self.known(batch))
        generator.set_state(masks)
        with keyed_dropout(self.net, x_t.device, generator):
            error = squared_norm(self.data(x_t, t, self.known(batch)) - target) / size
        # A tiny number keeps the gradient of the root finite where the two agree.
        distance = (error + self.huber**2 + 1e-24).sqrt()
        return (distance / ((1 - t) / t - (1 - s) / s)).mean()

    def known(self, batch: Batch) -> Condition | None:
        """The labels of the batch, for a network that takes them."""
        return batch.cond if getattr(self.net, "num_classes", 0) else None


class ConsistencyDistillation(Consistency):
    """Consistency distillation: the neighbour at s is one Heun step along the velocity of a teacher, from whose weights f starts.

    ``f(x, t) = x + (1 - t) v(x, t)`` of the teacher's velocity is its estimate of the data. A step must be short for Heun to be right, so the
    schedule begins at k = 4; loss, schedule and the rest are those of :class:`Consistency`. The paper takes 18 to 40 fixed levels and
    a moving average of f in the target.
    """

    summary = "map to the data with the same value along the trajectories of a teacher"
    needs_base = True

    def __init__(
        self,
        net: nn.Module,
        time_mean: float = 1.1,
        time_std: float = 2.0,
        first: int = 4,
        last: int = 8,
        huber: float = 0.0,
    ) -> None:
        super().__init__(net, time_mean, time_std, first, last, huber)

    def batches(self, task: Task, base: Flow | None, batch_size: int) -> BatchSource:
        """Fresh pairs with the base, the teacher. Raises ValueError for a base without a velocity field."""
        if base is None or VELOCITY not in base.capabilities:
            what = "no teacher" if base is None else f"a {type(base).__name__}, which has no velocity field"
            raise ValueError(f'distillation needs a velocity model as teacher, got {what}; set teacher = "task/entry"')
        source = super().batches(task, base, batch_size)
        return lambda generator: replace(source(generator), base=base)

    def neighbour(self, x_t: Points, t: Times, s: Times, batch: Batch) -> Points:
        """One Heun step of the teacher from t to s."""
        step, cond, teacher = like(s - t, x_t), self.known(batch), batch.base
        slope = teacher.velocity(x_t, t, cond)  # type: ignore[union-attr, operator]
        ahead = teacher.velocity(x_t + step * slope, s, cond)  # type: ignore[union-attr, operator]
        return x_t + step * (slope + ahead) / 2
