"""How a flow calls a network: ``net(x, t)``, further arguments by keyword, so that a time is never taken for a label."""

from __future__ import annotations

import inspect
import warnings
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from fmbench.shapes import Condition, Points, Times

LABELS = ("labels", "label", "y", "classes", "class_labels")
"""Names of the third argument of networks that took labels by position, before ``cond``."""


@lru_cache(maxsize=256)
def _third(kind: type) -> str | None:
    """The name of the third argument of a network that takes no keyword ``cond``; None where it does, or where the signature is unknown."""
    try:
        parameters = list(inspect.signature(kind.forward).parameters.values())[1:]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return None
    names = [p.name for p in parameters]
    if "cond" in names or any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    by_place = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return by_place[2] if len(by_place) > 2 else ""


def evaluate(net: nn.Module, x: Points, t: Times, *, r: Times | None = None, cond: Condition | None = None) -> Tensor:
    """``net(x, t)``, with ``r`` and ``cond`` as keywords where they are given.

    A network whose third argument takes labels gets them there, with a warning; this goes with the next version. Raises ValueError for a
    network that takes no condition, or whose third argument is something else: a second time must never be taken for a label.
    """
    given: dict[str, Any] = {}
    if r is not None:
        given["r"] = r
    if cond is None:
        return net(x, t, **given)
    third = _third(type(net))
    if third is None:
        return net(x, t, cond=cond, **given)
    name = type(net).__name__
    if third not in LABELS or cond.labels is None:
        what = f"its third argument is {third!r}" if third else "it takes (x, t) only"
        raise ValueError(f"{name}.forward takes no condition: {what}; write forward(self, x, t, *, r=None, cond=None)")
    warnings.warn(
        f"{name}.forward takes labels by position; write forward(self, x, t, *, r=None, cond=None) and read cond.labels",
        DeprecationWarning,
        stacklevel=2,
    )
    return net(x, t, cond.labels, **given)
