"""Networks of known size, as the ``[net]`` tables that recipes and tasks hold. Importing this loads no network."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fmbench.registry import UnknownName, nearest

_TABLES: dict[str, dict[str, Any]] = {
    # 1 M parameters on 28x28 grey images: 14x14 after the stem, 7x7 below, attention in the middle only.
    "unet-small": {
        "name": "unet", "adm": True, "patch": 2, "channels": 32, "multipliers": (1, 2), "blocks": 2, "attention": (),
    },
    # torchcfm's CIFAR-10 network: 35.7 M parameters on 32x32 RGB images.
    "unet-cifar10": {
        "name": "unet", "adm": True, "channels": 128, "multipliers": (1, 2, 2, 2), "blocks": 2, "attention": (16,),
        "groups": 32, "head_channels": 64, "scale_shift": False, "dropout": 0.1,
    },
    "dit-tiny": {"name": "dit", "patch": 2, "width": 96, "depth": 4, "heads": 3},
    # Table 1 of 2212.09748, each with patches of 2.
    "dit-s-2": {"name": "dit", "patch": 2, "width": 384, "depth": 12, "heads": 6},
    "dit-b-2": {"name": "dit", "patch": 2, "width": 768, "depth": 12, "heads": 12},
    "dit-l-2": {"name": "dit", "patch": 2, "width": 1024, "depth": 24, "heads": 16},
    "dit-xl-2": {"name": "dit", "patch": 2, "width": 1152, "depth": 28, "heads": 16},
}  # fmt: skip
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(_TABLES)
"""Preset name -> ``[net]`` table."""


def preset(name: str) -> dict[str, Any]:
    """A fresh copy of a preset's ``[net]`` table. Raises UnknownName, listing the nearest presets."""
    if name not in PRESETS:
        raise UnknownName(nearest("net preset", name, PRESETS))
    return dict(PRESETS[name])
