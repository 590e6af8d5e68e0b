"""Whether a training may write into a folder: never over what is finished, somebody else's, or no entry at all, unless told to."""

from __future__ import annotations

from pathlib import Path

from fmbench.records.names import check_entry_name
from fmbench.records.recipe import Recipe, read
from fmbench.zoo.card import ALT
from fmbench.zoo.catalogue import CHECKPOINT
from fmbench.zoo.entry import WEIGHTS

RECIPE, CARD = "recipe.toml", "README.md"
WORKSPACE = ".workspace"
"""Samples of the teacher, until the entry is written."""
TEMPORARY = str(Path(CHECKPOINT).with_suffix(".tmp"))
CHOICES = "give another --out, or --overwrite to replace it"


def claim(recipe: Recipe, out: Path, overwrite: bool) -> None:
    """Raise ValueError in one line when the entry of ``recipe`` must not be written into ``out``; nothing is changed here.

    Refused are names that no entry has, anything but regular files in the place of what will be written, and without ``overwrite`` a finished
    entry, another recipe, and files that belong to no entry. The folder of an unfinished training is free; its checkpoint says whose it is.
    """
    check_entry_name(out.resolve().name, "the folder of an entry")
    written = (WEIGHTS, RECIPE, CARD, *ALT)
    for name in (*written, CHECKPOINT, TEMPORARY):
        path = out / name
        if (path.exists() or path.is_symlink()) and not path.is_file():
            raise ValueError(f"{path} is no regular file, so it is in the way; give another --out, or move it")
    workspace = out / WORKSPACE
    if workspace.is_symlink() or (workspace.exists() and not workspace.is_dir()):
        raise ValueError(f"{workspace} is no folder, so it is in the way; give another --out, or move it")
    if overwrite or (out / CHECKPOINT).is_file():
        return
    taken = [name for name in written if (out / name).exists()]
    if RECIPE in taken:
        _require_own(recipe, out)
        taken = [name for name in taken if name == WEIGHTS]
    if taken:
        raise ValueError(f"{out} holds {taken[0]}, which no recipe there pins; {CHOICES}")


def _require_own(recipe: Recipe, out: Path) -> None:
    """Raise ValueError unless the recipe in ``out`` is this one, and not trained yet."""
    try:
        found = read(out / RECIPE)
    except ValueError as error:
        raise ValueError(f"{out} holds a recipe that cannot be read ({error}); {CHOICES}") from None
    if found.weights is not None:
        raise ValueError(f"{out} holds a finished entry; {CHOICES}")
    if found.identity() != recipe.identity():
        raise ValueError(f"{out} holds another recipe than the one to train; {CHOICES}")
