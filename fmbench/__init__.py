"""fmbench: a model zoo and a benchmark for flow matching.

    import fmbench
    model = fmbench.load("digits/ot-cfm")
    x = model.sample(64, seed=0, solver="euler", steps=8)
    results = fmbench.evaluate(model, "quick")

Importing the package imports nothing heavy; torch comes with the first name that needs it.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from fmbench.moved import Moved
from fmbench.version import __version__

sys.meta_path.append(Moved())

_LAZY = {
    "load": "fmbench.zoo.resolve",
    "wrap": "fmbench.zoo.foreign",
    "Model": "fmbench.zoo.model",
    "evaluate": "fmbench.evaluation.run",
    "train": "fmbench.training.run",
    "check_method": "fmbench.testing",
    "list_entries": "fmbench.zoo.catalogue",
    "list_methods": "fmbench.zoo.catalogue",
    "list_tasks": "fmbench.zoo.catalogue",
    "list_benchmarks": "fmbench.storage.bundled",
    "list_metrics": "fmbench.zoo.catalogue",
    "Result": "fmbench.records.result",
    "results": "fmbench.report.frames",
    "compare": "fmbench.report.frames:compare_entries",
}

__all__ = [
    "Model",
    "Result",
    "__version__",
    "check_method",
    "compare",
    "evaluate",
    "list_benchmarks",
    "list_entries",
    "list_methods",
    "list_metrics",
    "list_tasks",
    "load",
    "results",
    "train",
    "wrap",
]

if TYPE_CHECKING:
    from fmbench.evaluation.run import evaluate
    from fmbench.records.result import Result
    from fmbench.report.frames import compare_entries as compare
    from fmbench.report.frames import results
    from fmbench.storage.bundled import list_benchmarks
    from fmbench.testing import check_method
    from fmbench.training.run import train
    from fmbench.zoo.catalogue import list_entries, list_methods, list_metrics, list_tasks
    from fmbench.zoo.foreign import wrap
    from fmbench.zoo.model import Model
    from fmbench.zoo.resolve import load


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'fmbench' has no attribute {name!r}")
    # No module shares a name with one of these: importing it would shadow the function.
    module, _, attribute = _LAZY[name].partition(":")
    value = getattr(importlib.import_module(module), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
