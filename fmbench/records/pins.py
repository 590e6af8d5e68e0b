"""The pinned weight files of a recipe: that of its first training, and those of its replicates with other seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fmbench.records.names import check_name_in
from fmbench.records.tables import from_table, require_finite, shown
from fmbench.storage.repository import parse_address

MOST_PARAMETERS = 1_000_000_000
"""Numbers that a network may have; the largest preset, DiT-XL/2, has 675 million."""
MOST_BYTES = 8 * MOST_PARAMETERS
"""Bytes of a weight file."""
MOST_REPLICATES = 99
"""Further trainings of one entry."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Weights:
    """The weight file of a trained entry, pinned.

    Attributes:
        file: its name, beside the recipe or in the repository of its source.
        sha256, bytes: of the file.
        parameters: trained numbers in it.
        source: ``hf:owner/name@commit``, the repository that has the file where it does not lie beside the recipe.
    """

    file: str
    sha256: str
    bytes: int
    parameters: int
    source: str | None = None


@dataclass(frozen=True)
class Replicate:
    """One more training of a recipe, with another seed.

    Attributes:
        seed: its ``train.seed``; everything else in ``train`` is the recipe's.
        weights: its weight file, pinned.
        made: provenance written by the trainer.
    """

    seed: int
    weights: Weights
    made: Mapping[str, Any] = field(default_factory=dict, hash=False)


def read_replicates(tables: Any, where: str) -> tuple[Replicate, ...]:
    """The array of tables ``[[replicates]]``, each checked by itself."""
    if not isinstance(tables, (list, tuple)) or len(tables) > MOST_REPLICATES:
        raise ValueError(f"{where}: replicates must be at most {MOST_REPLICATES} tables, got {shown(tables)}")
    found = []
    for number, table in enumerate(tables, 1):
        place = f"{where} [[replicates]] {number}"
        if not isinstance(table, Mapping) or not isinstance(table.get("weights"), Mapping):
            raise ValueError(f"{place}: missing weights")
        one = from_table(
            Replicate, {**table, "weights": from_table(Weights, table["weights"], f"{place} weights")}, place
        )
        check_weights(one.weights, f"{place} weights")
        require_finite(one.made, f"{place} made")
        found.append(one)
    return tuple(found)


def check_replicates(seed: int, weights: Weights | None, replicates: Sequence[Replicate], where: str) -> None:
    """Raise ValueError for ``replicates`` without a first training, and for a seed, file or weights that two trainings share.

    ``seed`` and ``weights`` are those of the first training.
    """
    if not replicates:
        return
    if weights is None:
        raise ValueError(f"{where}: replicates without [weights]; the first training comes first")
    every = [(seed, weights), *((one.seed, one.weights) for one in replicates)]
    shared: list[tuple[str, list[Any]]] = [
        ("seed", [one for one, _ in every]),
        ("file", [pinned.file for _, pinned in every]),
        ("sha256", [pinned.sha256 for _, pinned in every]),
    ]
    for what, values in shared:
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise ValueError(f"{where}: two trainings have the {what} {shown(twice[0])}; every training has its own")
    if wrong := next((one.seed for one in replicates if not 0 <= one.seed < 2**63), None):
        raise ValueError(f"{where} [[replicates]]: seed must be at least 0 and below 2^63, got {shown(wrong)}")


def check_weights(weights: Weights, where: str) -> None:
    """Raise ValueError for a pin that no weight file can have, or whose file is not beside the recipe."""
    folders = weights.file.split("/")
    if len(folders) > 1 and weights.source is None:
        check_name_in(f"{where}: file", weights.file, "a weight file")
    for part in folders:
        check_name_in(f"{where}: file", part, "a weight file")
    if not _SHA256.fullmatch(weights.sha256):
        raise ValueError(f"{where}: sha256 must be 64 of 0-9 and a-f, got {shown(weights.sha256)}")
    for name, most in (("bytes", MOST_BYTES), ("parameters", MOST_PARAMETERS)):
        if not 0 <= getattr(weights, name) <= most:
            raise ValueError(f"{where}: {name} must be from 0 to {most}, got {shown(getattr(weights, name))}")
    if weights.source is not None and not _is_pinned(weights.source):
        raise ValueError(
            f"{where}: source must be hf:owner/name@ and the 40 digits of a commit, got {shown(weights.source)}"
        )


def _is_pinned(source: str) -> bool:
    """Whether text names a commit of a repository on the Hub."""
    try:
        return parse_address(source).pinned
    except ValueError:
        return False
