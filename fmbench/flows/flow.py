"""The interface of a trained generative model, which maps a source to data. Loss and batches belong to methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from fmbench.flows import legacy
from fmbench.noise import Draws
from fmbench.records.needs import CAPABILITIES
from fmbench.records.sampler import Sampler
from fmbench.shapes import Condition, Points

if TYPE_CHECKING:
    from fmbench.tasks.base import Distribution, Task

VELOCITY, FLOW_MAP, DENSITY, INVERSE, SCORE = "velocity", "flow_map", "density", "inverse", "score"
EXACT_DENSITY = "exact_density"
LABELS, GUIDANCE, FEATURES = "labels", "guidance", "features"


class Flow(nn.Module, ABC):
    """A trained generative model.

    Attributes:
        summary: one line for listings.
        reference: the paper.
        outside: whether work outside networks is expected, as in a closed form: an audit then lets it pass.
        default: the sampler used when none is given.
    """

    summary: ClassVar[str] = ""
    reference: ClassVar[str] = ""
    outside: ClassVar[bool] = False
    default: ClassVar[Sampler] = Sampler("euler", 32)

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        legacy.adapt(cls)

    @property
    def capabilities(self) -> frozenset[str]:
        """Keys of :data:`CAPABILITIES` that the flow supports."""
        return frozenset()

    def networks(self) -> Mapping[str, nn.Module]:
        """The networks whose evaluations are counted: purpose -> network, or a list or table of networks. ``net`` unless overridden."""
        return {"network": self.net}  # type: ignore[dict-item]

    def source(self, task: Task) -> Distribution:
        """The source distribution of samples: the task's unless overridden."""
        return task.source

    def accepts(self, sampler: Sampler) -> str | None:
        """None when the sampler applies to the flow, else the reason in one line."""
        if sampler.guidance == 1:
            return None
        if LABELS not in self.capabilities:
            return "guidance needs a class-conditional entry"
        return (
            None if GUIDANCE in self.capabilities else "guidance needs an entry that was trained with label_dropout > 0"
        )

    def require(self, sampler: Sampler) -> None:
        """Raise ValueError with the reason of :meth:`accepts`."""
        if (reason := self.accepts(sampler)) is not None:
            raise ValueError(reason)

    @abstractmethod
    def sample(self, draws: Draws, sampler: Sampler, cond: Condition | None = None) -> Points:
        """Data points, (batch, *shape), from everything random in ``draws``; ``draws.start()`` is the source."""


def as_draws(given: Draws | Tensor) -> Draws:
    """The draws as given, or draws with the given source points."""
    return given if isinstance(given, Draws) else Draws.given(given)


def lacks(flow: Flow, needed: str) -> str | None:
    """The reason why a flow lacks a capability; None when it has it."""
    return (
        None
        if needed in flow.capabilities
        else f"the model has no {needed.replace('_', ' ')}: needs {CAPABILITIES[needed]}"
    )


def device_of(module: nn.Module) -> torch.device:
    """The device of the parameters or buffers of a module, the CPU when it has none."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")
