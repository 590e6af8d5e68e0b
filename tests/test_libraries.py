"""FID by the libraries themselves: the same number as our implementation of their convention, on images that tell the conventions apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fmbench.cli import main
from fmbench.evaluation.dialects import CONVENTIONS, fid_dialects
from fmbench.evaluation.libraries import NAMES, available, library_fids
from fmbench.features.builders import TF1_INCEPTION
from fmbench.features.extractor import Extractor

WIDTH = 6


def smooth(n: int, seed: int) -> torch.Tensor:
    noise = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, size=(32, 32), mode="bicubic").clamp(-1, 1)


def pooled(x: torch.Tensor) -> tuple[torch.Tensor, None]:
    """A few features of the pixels that every resizing changes a little."""
    return torch.cat([x.mean((2, 3)), x[..., ::7, ::5].square().mean((2, 3))], dim=1)[:, :WIDTH], None


NETWORK = Extractor("pooled", "0", pooled, TF1_INCEPTION)


def test_the_libraries_agree_with_our_implementations_of_them() -> None:
    for package in ("cleanfid", "torchmetrics"):
        pytest.importorskip(package)
    images, real = smooth(40, 1), smooth(50, 2)
    ours = {row.name: row.fid for row in fid_dialects(images, real, NETWORK)}
    theirs = {convention.name: (library, fid) for convention, library, fid in library_fids(images, real, NETWORK)}
    assert set(theirs) == set(NAMES) == set(available())
    assert {library.partition(" ")[0] for library, _ in theirs.values()} == {"clean-fid", "torchmetrics"}
    for name, (_, fid) in theirs.items():
        assert fid == pytest.approx(ours[name], rel=2e-4), name
    far = {name: abs(fid - ours["fmbench"]) / ours["fmbench"] for name, (_, fid) in theirs.items()}
    assert max(far.values()) > 1e-3, "the images tell the conventions apart"


def test_a_library_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmbench.evaluation.libraries.find_spec", lambda name: None)
    assert available() == () and list(library_fids(smooth(4, 1), smooth(4, 2), NETWORK)) == []


@pytest.mark.slow
def test_the_command_shows_them_beside_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for package in ("cleanfid", "torchmetrics"):
        pytest.importorskip(package)
    for name, seed in (("a", 1), ("b", 2)):
        np.savez(tmp_path / f"{name}.npz", arr_0=((smooth(6, seed) + 1) * 127.5).byte().permute(0, 2, 3, 1).numpy())
    line = ["score", str(tmp_path / "a.npz"), "--reference", str(tmp_path / "b.npz"), "--fid-dialects", "--json"]
    assert main([*line, "--dialect-network", "inception-random", "--metric", "sliced_wasserstein2"]) == 0
    rows = {row["name"]: row["fid"] for row in json.loads(capsys.readouterr().out)["fid_dialects"]}
    assert len(rows) == len(CONVENTIONS) + len(NAMES)
    assert sum("(the library)" in name for name in rows) == len(NAMES)
