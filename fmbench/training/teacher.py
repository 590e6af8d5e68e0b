"""What a training run draws from its teacher, kept on disk: an interrupted run goes on with the samples it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from fmbench.flows.flow import VELOCITY, Flow, as_draws
from fmbench.flows.velocity import VelocityFlow
from fmbench.noise import Draws
from fmbench.progress import progress_bars
from fmbench.records.sampler import Sampler
from fmbench.shapes import Condition, Points, Times
from fmbench.storage import tensors
from fmbench.storage.files import fingerprint, sha256


def state_hash(method: Flow) -> str:
    """SHA-256 of the weights and buffers of a method."""
    # Copies, because modules may share a tensor.
    return sha256(save({k: v.contiguous().clone() for k, v in method.state_dict().items()}))


def _read(path: Path, shape: torch.Size) -> Tensor | None:
    """The samples in a file; None when there is none, or when it holds anything but what was written."""
    found = tensors.read(path)
    samples = None if found is None else found.tensors.get("samples")
    return samples if samples is not None and samples.shape == shape else None


class Kept(VelocityFlow):
    """A velocity model that looks for its samples in a folder, named by weights, noise and sampler, before it makes them.

    ``advance`` gets the size of every batch that is there.
    """

    def __init__(self, teacher: Flow, folder: Path, advance: Callable[[int], object]) -> None:
        super().__init__(teacher.net)  # type: ignore[arg-type]
        self.teacher, self.folder, self.advance = teacher, folder, advance
        self.weights = state_hash(teacher)

    def velocity(self, x: Points, t: Times, cond: Condition | None = None, guidance: float = 1.0) -> Points:
        """That of the teacher."""
        return self.teacher.velocity(x, t, cond, guidance)  # type: ignore[operator]

    def sample(self, draws: Draws, sampler: Sampler, cond: Condition | None = None) -> Points:
        """The samples of the teacher, on the device of the source points."""
        noise, labels = as_draws(draws).start(), None if cond is None else cond.labels
        drawn = [sha256(given.cpu().contiguous().numpy()) for given in (noise, labels) if given is not None]
        path = self.folder / f"{fingerprint([self.weights, asdict(sampler), *drawn])[:32]}.safetensors"
        samples = _read(path, noise.shape)
        if samples is None:
            samples = self.teacher.sample(draws, sampler, cond).detach().cpu().contiguous()
            tensors.write(path, {"samples": samples})
        self.advance(len(samples))
        return samples.to(noise.device)


@contextmanager
def kept(teacher: Flow | None, folder: Path, total: int | None, shown: bool = True) -> Iterator[Flow | None]:
    """Inside, the samples of a velocity ``teacher`` are kept in ``folder``; a bar counts them, up to ``total`` where it is known.

    ``shown`` is for one of several processes that make the same samples.
    """
    if teacher is None or VELOCITY not in teacher.capabilities:
        yield teacher
        return
    with progress_bars(shown) as progress:
        bar = progress.add_task("samples of the teacher", total=total)
        yield Kept(teacher, folder, lambda count: progress.advance(bar, count))
