"""Short hashes that name the content of a result: draws (samples of one sampler), flows, and metrics of either.

A name is a hash of everything that determines the value: equal names mean reproducible, equal values. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fmbench.records import versions
from fmbench.records.sampler import UNSAMPLED, Sampler
from fmbench.registry import SOLVERS
from fmbench.storage.files import fingerprint

DRAW, METRIC = 12, 8
"""Hexadecimal digits of the name of a draw or flow, and of a metric's key."""


def draw_id(
    task: Sequence[Any],
    model: Sequence[Any],
    sampler: Sampler | None,
    seeds: Sequence[int],
    n: int,
    how: Mapping[str, Any] | None = None,
) -> str:
    """Name of the samples that a sampler draws, or of real samples (``sampler`` None).

    Args:
        task: name and version.
        model: hashes of weights, of code, and of the recipe.
        sampler: solver, steps, guidance.
        seeds: evaluation seeds.
        n: samples per seed.
        how: the acceleration of the network, where there is any.
    """
    solver = None if sampler is None or sampler.solver == UNSAMPLED else versions.declared(SOLVERS, sampler.solver)
    drawn = {
        "task": list(task),
        "model": list(model),
        "sampler": None if sampler is None else sampler.label,
        "solver": solver,
        "seeds": list(seeds),
        "n": n,
        "contract": [versions.NOISE, versions.SAMPLING],
        **({"how": dict(how)} if how else {}),
    }
    return fingerprint(drawn)[:DRAW]


def flow_id(task: Sequence[Any], model: Sequence[Any], seed: int, settings: Mapping[str, int], samples: int) -> str:
    """Name of the reference solve and the probe of a flow: from the first noises of ``seed``, with the settings of a protocol's ``[flow]``.

    ``samples`` per seed count too: one-step maps are measured on them.
    """
    contract = [versions.NOISE, versions.REFERENCE_SOLVE]
    looked = {"task": list(task), "model": list(model), "seed": seed, "flow": dict(settings), "n": samples}
    return fingerprint({**looked, "contract": contract})[:DRAW]


def metric_key(name: str, version: int, *pinned: Any) -> str:
    """Key of a metric: hash of its name, its version, and what else determines its values, such as extractor, reference and flow."""
    return fingerprint([name, version, *pinned])[:METRIC]
