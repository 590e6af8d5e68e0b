"""Networks of other libraries by the names that their checkpoints use: ``diffusers`` and ``torchcfm``; both are optional packages.

Only the classes named here are built, from plain numbers and words: nothing of a checkpoint is executed.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fmbench.shapes import Condition, Points, Times

DIFFUSERS = ("UNet2DModel", "DiTTransformer2DModel")
TORCHCFM = {"UNetModelWrapper": "torchcfm.models.unet.unet", "MLP": "torchcfm.models.models"}


def _class(package: str, module: str, name: str, known: tuple[str, ...]) -> Any:
    if name not in known:
        raise ValueError(f"[net] network must be one of {', '.join(known)} of {package}, got {name!r:.80}")
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError:
        raise ImportError(f"this model is of {package}, which is not installed: pip install {package}") from None


class _Published(nn.Module):
    """A network of another library under the name ``model``."""

    def __init__(self, model: nn.Module, shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.model, self.shape, self.num_classes = model, tuple(shape), num_classes

    def labels(self, x: Points, cond: Condition | None) -> Tensor | None:
        """Labels of the rows, the null label without a condition, None for a network without labels."""
        if not self.num_classes:
            return None
        if cond is None or cond.labels is None:
            return torch.full((len(x),), self.num_classes, dtype=torch.long, device=x.device)
        return cond.labels


class Diffusers(_Published):
    """A network of the diffusers library.

    Args:
        shape: shape of one sample.
        num_classes: classes for conditioning; the label of that number means none.
        network: class in diffusers.
        config: its arguments, as ``config.json`` of the checkpoint has them.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        num_classes: int = 0,
        network: str = "UNet2DModel",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        made = _class("diffusers", "diffusers", network, DIFFUSERS)
        super().__init__(made(**{k: v for k, v in (config or {}).items() if not k.startswith("_")}), shape, num_classes)

    def forward(self, x: Points, t: Times, *, r: Times | None = None, cond: Condition | None = None) -> Points:
        """The network's own prediction at its own time."""
        labels = self.labels(x, cond)
        named = {} if labels is None else {"class_labels": labels}
        out = self.model(x, t, **named).sample
        # Transformers that predict a variance too return it in further channels.
        return out[:, : x.shape[1]]


class TorchCFM(_Published):
    """A network of torchcfm.

    Args:
        shape: shape of one sample.
        num_classes: classes for conditioning.
        network: class in torchcfm.
        config: its arguments.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        num_classes: int = 0,
        network: str = "UNetModelWrapper",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        made = _class("torchcfm", TORCHCFM.get(network, "torchcfm"), network, tuple(TORCHCFM))
        super().__init__(made(**(config or {})), shape, num_classes)

    def forward(self, x: Points, t: Times, *, r: Times | None = None, cond: Condition | None = None) -> Points:
        """Called as torchcfm calls it: the time first, or joined to the points."""
        if type(self.model).__name__ == "MLP":
            return self.model(torch.cat([x, t[:, None]], dim=-1))
        labels = self.labels(x, cond)
        return self.model(t, x) if labels is None else self.model(t, x, labels)
