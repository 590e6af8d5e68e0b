"""fmbench: a model zoo and a benchmark for flow matching.

    import fmbench
    model = fmbench.load("digits/ot-cfm")
    x = model.sample(64, seed=0, solver="euler", steps=8)
    results = fmbench.evaluate(model, "quick")

Importing the package imports nothing heavy; torch comes with the first name that needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_LAZY = {
    "load": "fmbench.model",
    "wrap": "fmbench.model",
    "Model": "fmbench.model",
    "evaluate": "fmbench.runner",
    "train": "fmbench.training",
    "check_method": "fmbench.testing",
    "list_entries": "fmbench.catalogue",
    "list_methods": "fmbench.catalogue",
    "list_tasks": "fmbench.catalogue",
    "list_benchmarks": "fmbench.catalogue",
    "list_metrics": "fmbench.catalogue",
    "Result": "fmbench.result",
}

__all__ = [
    "Model",
    "Result",
    "__version__",
    "check_method",
    "evaluate",
    "list_benchmarks",
    "list_entries",
    "list_methods",
    "list_metrics",
    "list_tasks",
    "load",
    "train",
    "wrap",
]

if TYPE_CHECKING:
    from fmbench.catalogue import list_benchmarks, list_entries, list_methods, list_metrics, list_tasks
    from fmbench.model import Model, load, wrap
    from fmbench.result import Result
    from fmbench.runner import evaluate
    from fmbench.testing import check_method
    from fmbench.training import train


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'fmbench' has no attribute {name!r}")
    # No module shares a name with one of these: importing it would shadow the function.
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
