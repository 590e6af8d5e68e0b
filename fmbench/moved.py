"""Forwarding of module names from before version 0.2: importing one still works in this version, with a warning."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "fmbench.acceleration": "fmbench.evaluation.acceleration",
    "fmbench.catalogue": "fmbench.zoo.catalogue",
    "fmbench.couplings": "fmbench.paths.couplings",
    "fmbench.datasets": "fmbench.storage.hub",
    "fmbench.dialects": "fmbench.evaluation.dialects",
    "fmbench.entry_folder": "fmbench.zoo.entry",
    "fmbench.features.download": "fmbench.storage.download",
    "fmbench.features.loading": "fmbench.zoo.extractors",
    "fmbench.files": "fmbench.storage.files",
    "fmbench.methods.classifier": "fmbench.features.classifier",
    "fmbench.metrics.base": "fmbench.metrics.legacy",
    "fmbench.metrics.info": "fmbench.records.metric",
    "fmbench.model": "fmbench.zoo.model",
    "fmbench.pictures": "fmbench.zoo.pictures",
    "fmbench.protocol": "fmbench.records.protocol",
    "fmbench.recipe": "fmbench.records.recipe",
    "fmbench.rescoring": "fmbench.evaluation.rescoring",
    "fmbench.result": "fmbench.records.result",
    "fmbench.runner": "fmbench.evaluation.run",
    "fmbench.sample_files": "fmbench.storage.samples",
    "fmbench.scoring": "fmbench.evaluation.scoring",
}


class _Same(Loader):
    """Loader that returns a module that exists already."""

    def __init__(self, name: str) -> None:
        self.name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module under its new name."""
        module = importlib.import_module(self.name)
        self.own = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Restore the module's own spec; the code ran under the new name."""
        module.__spec__ = self.own


class Moved(MetaPathFinder):
    """Finds the modules of :data:`MOVED`. Python asks it last, so that it never hides a module that exists."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec of a module that moved; None for every other name."""
        if name not in MOVED:
            return None
        warnings.warn(f"{name} is now {MOVED[name]}", DeprecationWarning, stacklevel=2)
        return ModuleSpec(name, _Same(MOVED[name]))


def attribute(module: str, name: str, now: str, renamed: str | None = None) -> Any:
    """The attribute ``name`` of ``module`` that moved to the module ``now``, with a warning. For a module's ``__getattr__``."""
    renamed = renamed or name
    warnings.warn(f"{module}.{name} is now {now}.{renamed}", DeprecationWarning, stacklevel=3)
    return getattr(importlib.import_module(now), renamed)
