"""Lazy registry: names to ``module:attribute``, resolved on first use, so that listing imports nothing heavy.

Outsiders add methods without touching fmbench through the entry-point group ``fmbench.methods`` (and ``.nets``, ``.tasks``, ...).
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from fmbench.execution.foreign import foreign


class UnknownName(ValueError):
    """A name that is not registered; the message lists the nearest ones."""


def nearest(kind: str, name: str, known: Iterable[str]) -> str:
    """One line: the unknown name, the nearest known ones, and where to list them all."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known[:8]
    return f"unknown {kind} {name!r}; nearest: {', '.join(close) or 'none'}"


def file_class(name: str) -> tuple[str, str] | None:
    """The two parts of ``path/to/file.py:Class``, user code; None for every other name."""
    path, separator, kind = name.rpartition(":")
    return (path, kind) if separator and path.endswith(".py") else None


class Registry:
    """A table of names of one kind. Plug-ins are read from entry points the first time an unknown name is met or all are listed."""

    def __init__(self, kind: str, table: dict[str, str]) -> None:
        self.kind = kind
        self.table = table

    @cache  # noqa: B019 - registries live as long as the process
    def all(self) -> dict[str, str]:
        """Built-in names first, then plug-ins; a plug-in cannot replace a built-in."""
        plugins = {point.name: point.value for point in entry_points(group=f"fmbench.{self.kind}s")}
        return {**plugins, **self.table}

    def resolve(self, name: str) -> Any:
        """The registered object. Raises UnknownName, or ForeignError in one line for a plug-in that cannot be imported."""
        target = self.table.get(name) or self.all().get(name)
        if target is None:
            raise UnknownName(nearest(self.kind, name, self.all()))
        module, _, attribute = target.partition(":")
        if name in self.table:
            return getattr(importlib.import_module(module), attribute)
        with foreign(f"{self.kind} {name} ({target}) cannot be imported"):
            return getattr(importlib.import_module(module), attribute)


METHODS = Registry(
    "method",
    {
        "cfm": "fmbench.methods.cfm:CFM",
        "fm": "fmbench.methods.fm:FM",
        "ot-cfm": "fmbench.methods.ot_cfm:OTCFM",
        "sb-cfm": "fmbench.methods.sb_cfm:SBCFM",
        "w-cfm": "fmbench.methods.w_cfm:WCFM",
        "rectified-flow": "fmbench.methods.rectified_flow:RectifiedFlow",
        "reflow": "fmbench.methods.rectified_flow:Reflow",
        "distill": "fmbench.methods.distill:Distill",
        "edm": "fmbench.methods.edm:EDM",
        "immiscible": "fmbench.methods.immiscible:Immiscible",
        "immiscible-knn": "fmbench.methods.immiscible:ImmiscibleKNN",
        "meanflow": "fmbench.methods.meanflow:MeanFlow",
        "imf": "fmbench.methods.imf:IMF",
        "split-meanflow": "fmbench.methods.split_meanflow:SplitMeanFlow",
        "shortcut": "fmbench.methods.shortcut:Shortcut",
        "consistency": "fmbench.methods.consistency:Consistency",
        "consistency-distill": "fmbench.methods.consistency:ConsistencyDistillation",
        "oracle": "fmbench.methods.oracle:Oracle",
        "published": "fmbench.methods.published:Published",
    },
)
TOOLS = Registry("tool", {"classifier": "fmbench.features.classifier:Classifier"})
"""Trained by a recipe but not generative: tools of the harness."""
NETS = Registry(
    "net",
    {
        "mlp": "fmbench.nets.mlp:MLP",
        "unet": "fmbench.nets.unet:UNet",
        "dit": "fmbench.nets.dit:DiT",
        "cnn": "fmbench.nets.cnn:CNN",
        "diffusers": "fmbench.nets.published:Diffusers",
        "torchcfm": "fmbench.nets.published:TorchCFM",
    },
)
SOLVERS = Registry(
    "solver",
    {
        "euler": "fmbench.solvers.euler:Euler",
        "midpoint": "fmbench.solvers.midpoint:Midpoint",
        "heun": "fmbench.solvers.heun:Heun",
        "rk4": "fmbench.solvers.rk4:RK4",
        "dopri5": "fmbench.solvers.dopri5:Dopri5",
        "sde-euler": "fmbench.solvers.sde_euler:SDEEuler",
        "inverse": "fmbench.solvers.inverse:Inverse",
    },
)
TASKS = Registry(
    "task",
    {
        "gaussian-8gaussians": "fmbench.tasks.toys:gaussian_8gaussians",
        "gaussian-moons": "fmbench.tasks.toys:gaussian_moons",
        "gaussian-scurve": "fmbench.tasks.toys:gaussian_scurve",
        "gaussian-checkerboard": "fmbench.tasks.toys:gaussian_checkerboard",
        "8gaussians-moons": "fmbench.tasks.toys:eight_gaussians_moons",
        "moons-8gaussians": "fmbench.tasks.toys:moons_8gaussians",
        "mixture-2d": "fmbench.tasks.products:mixture_2d",
        "mixture-16d": "fmbench.tasks.products:mixture_16d",
        "mixture-64d": "fmbench.tasks.products:mixture_64d",
        "sf2m-gaussians": "fmbench.tasks.sf2m:gaussians",
        "sf2m-moons": "fmbench.tasks.sf2m:moons",
        "digits": "fmbench.tasks.digits:digits",
        "mnist": "fmbench.tasks.hub_images:mnist",
        "fashion-mnist": "fmbench.tasks.hub_images:fashion_mnist",
        "cifar10": "fmbench.tasks.hub_images:cifar10",
    },
)
EXTRACTORS = Registry(
    "extractor",
    {
        "inception-tf": "fmbench.features.builders:inception_tf",
        "inception-random": "fmbench.features.builders:inception_random",
        "clip": "fmbench.features.builders:clip_b32",
        "clip-vit-l14-336": "fmbench.features.builders:clip_l14_336",
        "dinov2-vit-l14": "fmbench.features.builders:dinov2_l14",
        "efficientnet-lite0": "fmbench.features.builders:efficientnet_lite0",
    },
)
"""Networks by name: functions (name, device) -> :class:`~fmbench.features.extractor.Extractor`."""
OPTIMISERS = Registry(
    "optimiser",
    {
        "adamw": "fmbench.training.optimisers:adamw",
        "adam": "fmbench.training.optimisers:adam",
        "sgd": "fmbench.training.optimisers:sgd",
    },
)
"""Optimisers: functions (parameters, lr=, weight_decay=, **options) -> ``torch.optim.Optimizer``."""
REGISTRIES = {
    "methods": METHODS,
    "tasks": TASKS,
    "nets": NETS,
    "solvers": SOLVERS,
    "optimisers": OPTIMISERS,
    "extractors": EXTRACTORS,
    "tools": TOOLS,
}
"""All registries by kind; ``fmbench list`` shows each of them."""


def create(kind: str, name: str, *args: Any, **kwargs: Any) -> Any:
    """Resolve a name of ``kind`` (a key of :data:`REGISTRIES`) and call it."""
    factory: Callable[..., Any] = REGISTRIES[kind].resolve(name)
    return factory(*args, **kwargs)


def trainable(name: str) -> Any:
    """The class of a method, or of a tool, by its name. Raises UnknownName, which lists the nearest methods."""
    return TOOLS.resolve(name) if name in TOOLS.all() else METHODS.resolve(name)
