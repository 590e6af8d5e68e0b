"""A discrete toy: sequences of tokens in a space of their own, a jump process that unmasks them, and a metric that only this task can feed."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from fmbench.flows.flow import as_draws
from fmbench.methods import Method
from fmbench.records.metric import Metric
from fmbench.statistics.intervals import jackknife_estimate
from fmbench.tasks.base import Task
from fmbench.tasks.space import Space

LENGTH, ALPHABET = 4, 3
MASK = ALPHABET
FIRST, NEXT = [0.6, 0.3, 0.1], [[0.8, 0.1, 0.1], [0.1, 0.1, 0.8], [0.3, 0.6, 0.1]]
"""A Markov chain: law of the first token, and of each next one given the one before."""


@dataclass(frozen=True)
class TokenSpace(Space):
    """Sequences of tokens: whole numbers, between which there are no distances."""

    kind = "sequence"
    provides = frozenset({"tokens"})

    def flatten(self, points):
        return points.flatten(1).long().numpy()

    def describe(self):
        return f"sequences of {self.shape[0]} tokens"

    def show(self, points):
        yield from ("".join("abc_"[token] for token in row) for row in points.long().tolist())


def probabilities():
    """The chance of every sequence, (ALPHABET,) * LENGTH."""
    table = np.array(FIRST)
    for _ in range(LENGTH - 1):
        table = table[..., None] * np.array(NEXT)
    return table


class Chain:
    """Draws sequences."""

    def sample(self, n, generator):
        flat = torch.from_numpy(probabilities()).flatten()
        drawn = torch.multinomial(flat, n, replacement=True, generator=generator)
        return torch.stack(torch.unravel_index(drawn, (ALPHABET,) * LENGTH), dim=1).float()


class Masked:
    """Sequences of nothing but masks."""

    def sample(self, n, generator):
        return torch.full((n, LENGTH), float(MASK))


def chain_task():
    """Masks to a Markov chain of four tokens."""
    chain, shape = Chain(), (LENGTH,)
    return Task(
        name="token-chain",
        version=1,
        summary="masks to a Markov chain of four tokens",
        kind=TokenSpace.kind,
        shape=shape,
        source=Masked(),
        target=chain,
        heldout=chain,
        net={"name": "mlp", "width": 32, "depth": 2},
        train={"steps": 600, "batch_size": 256, "lr": 3e-3, "ema": 0.9},
        gaussian_source=False,
        space=TokenSpace(shape),
        facts={"pmf": probabilities()},
    )


def measure(evidence):
    """Total variation between the law of the task and the shares of the samples, jackknife over samples."""
    pmf = evidence["pmf"]
    cells = np.ravel_multi_index(tuple(evidence.samples.T), pmf.shape)

    def distance(kept):
        shares = np.bincount(cells[kept], minlength=pmf.size) / len(cells[kept])
        return float(np.abs(shares - pmf.ravel()).sum() / 2)

    return jackknife_estimate(distance, len(cells), bounds=(0.0, 1.0))


METRIC = Metric(
    "TV",
    "",
    "lower",
    "samples",
    ("tokens", "pmf"),
    "jackknife",
    "Total variation to the exact law.",
    measure,
    range=(0.0, 1.0),
)


class Net(nn.Module):
    """Logits of every token, (batch, LENGTH, ALPHABET), from what is not masked."""

    def __init__(self):
        super().__init__()
        inputs, outputs = LENGTH * (ALPHABET + 1), LENGTH * ALPHABET
        self.layers = nn.Sequential(
            nn.Linear(inputs, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, outputs)
        )

    def forward(self, x):
        seen = nn.functional.one_hot(x.long(), ALPHABET + 1).flatten(1).float()
        return self.layers(seen).unflatten(1, (LENGTH, ALPHABET))


class Unmask(Method):
    """Masked discrete flow matching: each mask jumps to a token at the rate 1 / (1 - t)."""

    summary = "unmasks tokens"

    @classmethod
    def build_net(cls, task, net, conditional):
        return Net()

    def accepts(self, sampler):
        return None if sampler.solver == "euler" else "this model jumps, in steps of euler"

    def sample(self, draws, sampler, cond=None):
        draws = as_draws(draws)
        x = draws.start()
        for step, (s, t) in enumerate(pairwise(sampler.times().tolist())):
            chance = draws.uniform((2, LENGTH), step=step)
            below = self.net(x).softmax(dim=-1).cumsum(dim=-1)[..., :-1]
            token = (chance[:, 1, :, None] >= below).sum(dim=-1)
            leaves = (x == MASK) & (chance[:, 0] < (t - s) / (1 - s))
            x = torch.where(leaves, token.to(x), x)
        return x

    def loss(self, batch, generator):
        t = torch.rand((len(batch.x1), 1), generator=generator)
        hidden = (torch.rand(batch.x1.shape, generator=generator) >= t).to(batch.x1.device)
        logits = self.net(torch.where(hidden, batch.x0, batch.x1))
        losses = nn.functional.cross_entropy(logits.transpose(1, 2), batch.x1.long(), reduction="none")
        return (losses * hidden).sum() / hidden.sum().clamp_min(1)
