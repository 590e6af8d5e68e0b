"""The requirements that a metric can declare: of the sample space, the task, the flow, and the samples at hand. No torch.

A need is a name; alternatives stand in one need with ``|`` between them. What is missing becomes one generated reason (:func:`reason`), which is
true because nothing else decides whether a metric is measured.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

CAPABILITIES = {
    "velocity": "a velocity field v(x, t), whose trajectories can be solved",
    "flow_map": "a map between two times",
    "density": "a log density, by solving back trajectories that do not end in points",
    "exact_density": "a log density of its own, exact",
    "score": "the score of its marginals: a standard normal source independent of the data",
    "inverse": "a way from data back to the source",
    "labels": "samples of a class that is asked for",
    "guidance": "guidance by a network that also knows the unconditional field",
    "features": "features of images, for distances between sets of them",
}
"""Capabilities of flows, described in words for reasons."""
SPACE, TASK, FLOW, SAMPLES = "space", "task", "flow", "samples"


@dataclass(frozen=True)
class Need:
    """One requirement of a metric.

    Attributes:
        words: its description after "needs".
        without: the message when it is missing; ``{who}`` is replaced by the model.
        of: what provides it: :data:`SPACE`, :data:`TASK`, :data:`FLOW` or, for samples and their reference, :data:`SAMPLES`.
    """

    words: str
    without: str
    of: str


NEEDS: dict[str, Need] = {
    "vector": Need("vectors", "samples of this task are none", SPACE),
    "image": Need("images", "samples of this task are none", SPACE),
    "coordinates": Need("coordinates, between which there are distances", "samples of this task have none", SPACE),
    "reference": Need("real samples", "nothing but statistics of the reference is there", SAMPLES),
    "features": Need("features", "neither the task nor the call names a feature extractor", SAMPLES),
    "logits": Need("class logits", "no feature extractor of the task or the call gives any", SAMPLES),
    "endpoints": Need(
        "a reference solution from the same noises",
        "it takes a velocity field, the first seed, a sampler without guidance, and a reference solve that stays finite",
        SAMPLES,
    ),
    "heldout": Need("a finite data set with held-out samples", "this task has none", TASK),
    "mixture": Need("a target that is a mixture of separate Gaussians", "that of this task is not known to be one", TASK),
    "w2_squared": Need("W2^2 between source and target", "it is not known for this task", TASK),
    "oracle": Need("the exact velocity of independent pairs", "it is not known for this task", TASK),
    "source_density": Need("the density of the source", "it is not known for this task", TASK),
    "levels": Need("grey levels", "images of this task have none", TASK),
    **{
        name: Need(words, "{who} has none", FLOW)
        for name, words in CAPABILITIES.items()
        if name != "features"  # those of samples, which an extractor gives
    },
}  # fmt: skip
"""Needs that fmbench knows. A task may provide others, for metrics of its own."""
_RULE = re.compile(r"[a-z][a-z0-9_]*(\|[a-z][a-z0-9_]*)*")


def known(name: str) -> Need:
    """The need of a name; one that fmbench does not know is provided by a task."""
    return NEEDS.get(name) or Need(name.replace("_", " "), "this task does not provide it", TASK)


def alternatives(need: str) -> list[str]:
    """The names in a need, each of which satisfies it."""
    return need.split("|")


def check_needs(needs: object, where: str) -> tuple[str, ...]:
    """The needs, when they are a tuple of names. Raises ValueError in one line, which starts with ``where``."""
    given = tuple(needs) if isinstance(needs, tuple | list) else None
    if given is None or not all(isinstance(need, str) and _RULE.fullmatch(need) for need in given):
        raise ValueError(
            f"{where}: needs must be a tuple of names in small letters, digits and _, with | between alternatives, got {needs!r:.80}"
        )
    return given


def missing(needs: Iterable[str], has: Callable[[str], bool]) -> str | None:
    """The first need without an available alternative; None when nothing is missing."""
    return next((need for need in needs if not any(has(name) for name in alternatives(need))), None)


def reason(need: str, who: str = "the model") -> str:
    """The reason why a metric with an unmet need is not measured, in one line; ``who`` is the model that lacks it."""
    found = [known(name) for name in alternatives(need)]
    words = ", or ".join(dict.fromkeys(one.words for one in found))
    without = " and ".join(dict.fromkeys(one.without for one in found)).format(who=who)
    return f"needs {words}: {without}"
