"""Methods written for version 0.1: ``sample(noise, budget, labels)``, ``velocity(x, t, labels, guidance)``, ``steps_allowed``.

They work in this version, with a warning that names the replacement.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any

from fmbench.shapes import as_condition

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _names(function: Callable[..., Any]) -> list[str]:
    """Names of the positional arguments after ``self``; none where the signature is unknown."""
    try:
        return [p.name for p in inspect.signature(function).parameters.values() if p.kind in POSITIONAL][1:]
    except (TypeError, ValueError):
        return []


def _labels(cond: Any) -> Any:
    found = as_condition(cond)
    return None if found is None else found.labels


def _sample(old: Callable[..., Any]) -> Callable[..., Any]:
    takes = len(_names(old))

    @functools.wraps(old)
    def sample(self: Any, draws: Any, sampler: Any, cond: Any = None) -> Any:
        noise = draws.start() if hasattr(draws, "start") and callable(draws.start) else draws
        return old(self, noise, sampler, _labels(cond)) if takes > 2 else old(self, noise, sampler)

    return sample


def _velocity(old: Callable[..., Any]) -> Callable[..., Any]:
    takes = len(_names(old))

    @functools.wraps(old)
    def velocity(self: Any, x: Any, t: Any, cond: Any = None, guidance: float = 1.0) -> Any:
        return old(self, x, t, *(_labels(cond), guidance)[: takes - 2])

    return velocity


def adapt(cls: type) -> None:
    """Adapt a class written for version 0.1 to the present signatures, in place."""
    own, written = vars(cls), []
    if "sample" in own and _names(own["sample"])[:1] in (["noise"], ["z"], ["x0"]):
        cls.sample = _sample(own["sample"])  # type: ignore[attr-defined]
        written.append("sample(self, draws, sampler, cond=None) with draws.start()")
    if "velocity" in own and (_names(own["velocity"])[2:3] == ["labels"] or len(_names(own["velocity"])) == 2):
        old_style = _names(own["velocity"])[2:3] == ["labels"]
        cls.velocity = _velocity(own["velocity"])  # type: ignore[attr-defined]
        if old_style:
            written.append("velocity(self, x, t, cond=None, guidance=1.0)")
    if own.get("steps_allowed"):
        steps = own["steps_allowed"]
        cls.accepts = _accepts(steps, own.get("accepts"))  # type: ignore[attr-defined]
        written.append("accepts(self, sampler)")
        from fmbench.records.sampler import Sampler

        cls.default = Sampler("euler", steps[0])  # type: ignore[attr-defined]
    if "needs_teacher" in own:
        cls.needs_base = own["needs_teacher"]  # type: ignore[attr-defined]
        written.append("needs_base")
    if written:
        warnings.warn(
            f"{cls.__name__} is written for fmbench 0.1; write {', '.join(written)}", DeprecationWarning, stacklevel=4
        )


def _accepts(steps: tuple[int, ...], own: Any) -> Callable[..., str | None]:
    def accepts(self: Any, sampler: Any) -> str | None:
        if sampler.solver != "euler" or sampler.steps not in steps:
            return f"this model samples with euler and {', '.join(map(str, steps))} step only"
        return own(self, sampler) if own else None

    return accepts
