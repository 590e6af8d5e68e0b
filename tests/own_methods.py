"""Methods as others write them, for the tests of training: their losses ask more of a network than one call."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fmbench.flows.flow import Flow, as_draws
from fmbench.methods.base import Batch, Method, VelocityMethod
from fmbench.records.sampler import Sampler
from fmbench.shapes import Condition


class TwoTimes(nn.Module):
    """u(x, t, r, labels) of flat points."""

    def __init__(self, size: int, classes: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.size, self.num_classes = size, classes
        self.first, self.drop, self.last = nn.Linear(size + 2 + classes, 16), nn.Dropout(dropout), nn.Linear(16, size)
        self.idle = nn.Linear(2, 2)

    def forward(self, x: Tensor, t: Tensor, *, r: Tensor | None = None, cond: Condition | None = None) -> Tensor:
        parts = [x.flatten(1), t[:, None], (t if r is None else r)[:, None]]
        if cond is not None and cond.labels is not None:
            parts.append(torch.nn.functional.one_hot(cond.labels, self.num_classes).to(x))
        elif self.num_classes:
            parts.append(x.new_zeros(len(x), self.num_classes))
        return self.last(self.drop(torch.tanh(self.first(torch.cat(parts, 1))))).view_as(x)


class Own(Method):
    """A network of two times."""

    @classmethod
    def build_net(cls, task, net, conditional):
        return TwoTimes(torch.Size(task.shape).numel(), task.num_classes if conditional else 0, cls.dropout)

    dropout = 0.0

    def sample(self, draws, sampler, cond=None):
        x = draws.start()
        return x + self.net(x, x.new_ones(len(x)), r=x.new_zeros(len(x)), **({} if cond is None else {"cond": cond}))

    def draw(self, batch: Batch, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Points, times t and r <= t, and targets."""
        times = torch.rand(2, len(batch.x0), generator=random).to(batch.x0)
        t, r = times.amax(0), times.amin(0)
        weight = t.view(-1, *[1] * (batch.x0.ndim - 1))
        return (1 - weight) * batch.x0 + weight * batch.x1, t, r, batch.x1 - batch.x0


class MeanFlowLike(Own):
    """The average velocity, by the derivative along the path; its weights are normalised over the batch, so it is no mean over rows."""

    detached = True

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        x, t, r, v = self.draw(batch, generator)
        ones, zeros = torch.ones_like(t), torch.zeros_like(r)
        u, du = torch.func.jvp(lambda x, t, r: self.net(x, t, r=r), (x, t, r), (v, ones, zeros))
        target = v - (t - r)[:, None] * (du.detach() if self.detached else du)
        error = (u - target).square().flatten(1).sum(1)
        weight = 1 / (error.detach() + 0.1)
        return (weight * error).sum() / weight.sum()


class Twofold(MeanFlowLike):
    """The same, differentiated through the derivative."""

    detached = False


class Dropped(MeanFlowLike):
    """The same with dropout, whose masks come from the global generator of torch."""

    dropout = 0.3


class TwoNetworks(Own):
    """A network, a critic of what it returns, and a number that is learned, none of them a plain call; rows mix between the calls."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.critics = nn.ModuleList([TwoTimes(net.size)])
        self.scale = nn.Parameter(torch.tensor(0.5))

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        x, t, r, v = self.draw(batch, generator)
        u = self.net.forward(x, t, r=r)
        moved = (x + u * self.scale).detach().requires_grad_()
        slope = torch.autograd.grad(self.critics[0](moved, t).square().sum(), moved, create_graph=True)[0]
        centred = u - u.mean(0)
        return (
            (u - v).square().mean()
            + slope.square().mean()
            + self.scale * self.critics[0](centred, r).exp().mean().log()
        )


class Doubled(Own):
    """Labels in a condition, and both ends in one call of twice the batch."""

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        x, t, r, v = self.draw(batch, generator)
        assert batch.labels is not None
        both = Condition(torch.cat([batch.labels, batch.labels.flip(0)]))
        ahead, back = self.net(torch.cat([x, -x]), torch.cat([t, r]), r=torch.cat([r, t]), cond=both).chunk(2)
        return (ahead - v).square().mean() + (ahead + back).square().mean()


class ByPlace(TwoTimes):
    """Takes labels by position, as networks did."""

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return super().forward(x, t, cond=None if labels is None else Condition(labels))


class OldNetwork(VelocityMethod):
    """Asks how to call its network."""

    @classmethod
    def build_net(cls, task, net, conditional):
        return ByPlace(torch.Size(task.shape).numel(), task.num_classes)

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        times = torch.rand(len(batch.x0), generator=generator)
        return (self.predict(batch.x0, times, batch, generator) - batch.x1).square().mean()


class Statistics(nn.Module):
    """Statistics of the batch, in buffers."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm, self.last = nn.BatchNorm1d(size), nn.Linear(size, size)

    def forward(self, x: Tensor, t: Tensor, **_: Tensor) -> Tensor:
        return self.last(self.norm(x)) * t[:, None]


class Centred(nn.Module):
    """The mean of the batch, behind a layer that is 0 at the start."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(size, 8), nn.Linear(8, size)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, t: Tensor, **_: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x - x.mean(0)))) * t[:, None]


class Noisy(Centred):
    """Noise of its own."""

    def forward(self, x: Tensor, t: Tensor, **_: Tensor) -> Tensor:
        return self.last(self.first(x) + torch.randn(len(x), 8)) * t[:, None]


class Total(Centred):
    """One number for the batch."""

    def forward(self, x: Tensor, t: Tensor, **_: Tensor) -> Tensor:
        return (self.first(x).sum(1) * t).mean()


class Regression(Own):
    """Any network."""

    kind: type[nn.Module] = Statistics

    @classmethod
    def build_net(cls, task, net, conditional):
        return cls.kind(task.shape[0])

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        x, t, r, v = self.draw(batch, generator)
        return (self.net(x, t, r=r) - v).square().mean()


class OfStatistics(Regression):
    """See :class:`Statistics`."""


class OfCentred(Regression):
    """See :class:`Centred`."""

    kind = Centred


class OfNoisy(Regression):
    """See :class:`Noisy`."""

    kind = Noisy


class OfTotal(Regression):
    """See :class:`Total`."""

    kind = Total


class Aside(Regression):
    """A network that the training loop cannot see."""

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        x, t, _, v = self.draw(batch, generator)
        weight = self.net.norm.weight
        return (x * weight - v).square().mean() + t.mean()


class Follows(Own):
    """Learns from samples that its base draws anew in every step, whatever the base is."""

    needs_base = True

    def initialise(self, base: Flow) -> None:
        """Nothing is taken over."""

    def batches(self, task, base, batch_size):
        def source(random: torch.Generator) -> Batch:
            start = task.source.sample(batch_size, random)
            with torch.no_grad():
                return Batch(start, base.sample(as_draws(start), Sampler("euler", 1)))

        return source

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        x, t, r, v = self.draw(batch, generator)
        return (self.net(x, t, r=r) - v).square().mean()
