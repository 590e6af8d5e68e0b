"""Rectified flow and reflow: Liu, Gong, Liu, ICLR 2023, 2209.03003."""

from __future__ import annotations

import torch
from torch import nn

from fmbench.flows.flow import LABELS, VELOCITY, Flow, as_draws, device_of
from fmbench.methods.base import Batch, BatchSource
from fmbench.methods.cfm import CFM
from fmbench.noise import BLOCK, generator
from fmbench.records.sampler import Sampler
from fmbench.shapes import Condition
from fmbench.tasks.base import Task

PAIR_SEED = 2209
"""Key of the generator of reflow's source points: never a noise stream of an evaluation."""


class RectifiedFlow(CFM):
    """1-rectified flow: CFM with sigma = 0 (its published code draws t from [1e-3, 1]; here t is uniform on [0, 1])."""

    summary = "1-rectified flow: straight paths between independent pairs"
    reference = "arXiv:2209.03003"
    objective = "E |v(x_t, t) - (x1 - x0)|^2, x_t = (1-t) x0 + t x1, pairs independent"

    def __init__(self, net: nn.Module, label_dropout: float = 0.1) -> None:
        super().__init__(net, 0.0, label_dropout)


def teacher_pairs(task: Task, base: Flow | None, count: int, sampler: Sampler, labelled: bool = False) -> Batch:
    """``count`` aligned pairs (Z0, Z1 = ODE(Z0)) of a trained velocity model, in whole noise blocks.

    With ``labelled``, every pair has a class, uniform over those of the task, for which the base sampled it. Raises ValueError when the
    recipe named no teacher, one that has no velocity field, or one without labels for pairs that need them.
    """
    if base is None or VELOCITY not in base.capabilities:
        what = "no teacher" if base is None else f"a {type(base).__name__}, which has no velocity field"
        raise ValueError(
            f'reflow and distillation need a velocity model as teacher, got {what}; set teacher = "task/entry"'
        )
    if labelled and LABELS not in base.capabilities:
        raise ValueError(
            f"labelled pairs need a class-conditional teacher, and this {type(base).__name__} takes no labels"
        )
    device = device_of(base)
    starts, stops, classes = [], [], []
    with torch.no_grad():
        for block in range(-(-count // BLOCK)):
            random = generator(PAIR_SEED, block)
            starts.append(task.source.sample(BLOCK, random))
            if labelled:  # drawn after the noise, which is the same with and without labels
                classes.append(torch.randint(task.num_classes, (BLOCK,), generator=random))
            cond = [Condition(labels.to(device)) for labels in classes[-1:]]
            stops.append(base.sample(as_draws(starts[-1].to(device)), sampler, *cond).cpu())
    return Batch(torch.cat(starts)[:count], torch.cat(stops)[:count], torch.cat(classes)[:count] if labelled else None)


def pair_batches(
    task: Task, base: Flow | None, count: int, sampler: Sampler, batch_size: int, labelled: bool = False
) -> BatchSource:
    """Minibatches drawn with replacement from :func:`teacher_pairs`; noise, sample and label stay aligned."""
    pairs = teacher_pairs(task, base, count, sampler, labelled)

    def source(generator: torch.Generator) -> Batch:
        index = torch.randint(count, (batch_size,), generator=generator)
        return Batch(pairs.x0[index], pairs.x1[index], None if pairs.labels is None else pairs.labels[index])

    return source


class Reflow(RectifiedFlow):
    """k-rectified flow: the same loss on the pairs (Z0, Z1) that the (k-1)-rectified teacher generates, started from its weights.

    Args:
        net: velocity network.
        pairs: number of pairs generated once, before training.
        rtol, atol: tolerance of dopri5 for the pairs; loose pairs bend the flow again.
    """

    summary = "k-rectified flow: straight paths between the pairs of a teacher flow"
    objective = "E |v(Z_t, t) - (Z1 - Z0)|^2, Z_t = (1-t) Z0 + t Z1, pairs (Z0, Z1 = ODE(Z0)) of the teacher"
    needs_base = True

    def __init__(self, net: nn.Module, pairs: int = 65_536, rtol: float = 1e-5, atol: float = 1e-5) -> None:
        super().__init__(net, label_dropout=0.0)
        if pairs < 1:
            raise ValueError(f"[method] pairs must be at least 1, got {pairs}")
        self.pairs = pairs
        self.sampler = Sampler("dopri5", options={"rtol": rtol, "atol": atol})

    def batches(self, task: Task, base: Flow | None, batch_size: int) -> BatchSource:
        """See :func:`pair_batches`."""
        return pair_batches(task, base, self.pairs, self.sampler, batch_size, LABELS in self.capabilities)
