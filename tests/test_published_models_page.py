"""The page on published models: every example runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[1] / "docs" / "published-models.md"
SECTIONS = PAGE.read_text().split("\n## ")[1:] if PAGE.is_file() else []
BLOCKS = {
    section.splitlines()[0]: block
    for section in SECTIONS
    for block in re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
}


def test_there_is_an_example_for_every_library() -> None:
    assert len(BLOCKS) == 6


@pytest.mark.parametrize("title", list(BLOCKS))
def test_the_example_runs(title: str) -> None:
    for package in ("torchcfm", "flow_matching", "diffusers"):
        if package in BLOCKS[title]:
            pytest.importorskip(package)
    torch.manual_seed(0)
    space: dict[str, object] = {"__name__": "example"}
    exec(compile(BLOCKS[title], f"{PAGE.name}: {title}", "exec"), space)
    x = space.get("x")
    assert x is None or (isinstance(x, torch.Tensor) and tuple(x.shape) == (4, 1, 8, 8) and bool(x.isfinite().all()))
