"""Declared versions of fmbench's own definitions, which identify its code in a result. No torch.

A version is raised when a change of a definition changes values; an edit of a docstring, a faster way to the same value or a renamed
variable raises none. ``tests/records/test_versions.py`` holds reference values of each version, and fails when they change. The version
of a metric is in its row of :mod:`fmbench.records.metric`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable

from fmbench.registry import METHODS, NETS, SOLVERS, TOOLS, Registry

NOISE = 1
"""The noise contract: which points row ``i`` of a seed starts from."""
REFERENCE_SOLVE = 1
"""The reference solve and the probe of a flow, which the flow metrics look at."""
SAMPLING = 1
"""How a method, a sampler and noises become samples: batching, labels, guidance."""
SOLVER_VERSIONS = {"euler": 1, "midpoint": 1, "heun": 1, "rk4": 1, "dopri5": 2, "sde-euler": 1, "inverse": 1}
METHOD_VERSIONS = {
    "cfm": 1, "fm": 1, "ot-cfm": 1, "sb-cfm": 1, "w-cfm": 1, "rectified-flow": 1, "reflow": 1, "distill": 1, "oracle": 1,
    "published": 1, "edm": 1, "immiscible": 1, "immiscible-knn": 1,
    "meanflow": 1, "imf": 1, "split-meanflow": 1, "shortcut": 1, "consistency": 1, "consistency-distill": 1,
}  # fmt: skip
TOOL_VERSIONS = {"classifier": 1}
NET_VERSIONS = {"mlp": 1, "unet": 1, "dit": 1, "cnn": 1, "diffusers": 1, "torchcfm": 1}
_TABLES: tuple[tuple[Registry, dict[str, int]], ...] = (
    (METHODS, METHOD_VERSIONS),
    (TOOLS, TOOL_VERSIONS),
    (NETS, NET_VERSIONS),
    (SOLVERS, SOLVER_VERSIONS),
)


def declared(registry: Registry, name: str) -> str:
    """``name:version`` of a registered solver, method or net: the declared version, or that of the package a plug-in comes from.

    A plug-in that no installed package owns has the version ``?``.
    """
    for known, versions in _TABLES:
        if known is registry and name in versions:
            return f"{name}:{versions[name]}"
    target = registry.all().get(name, name)
    return f"{name}:{package_version(target.partition(':')[0])}"


def package_version(module: str) -> str:
    """``distribution version`` of the installed package that holds a module, ``?`` when none does."""
    top = module.partition(".")[0]
    found = importlib.metadata.packages_distributions().get(top, [])
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in sorted(set(found))) or "?"


def of_classes(kinds: Iterable[type]) -> list[str]:
    """Declared versions of those classes that are registered methods, nets or solvers of fmbench, in the order given."""
    names = {target: f"{name}:{versions[name]}" for known, versions in _TABLES for name, target in known.table.items()}
    return [names[at] for kind in kinds if (at := f"{kind.__module__}:{kind.__qualname__}") in names]
