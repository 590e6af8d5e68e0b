"""An empty cache, a loopback mirror with faults on demand, and seeded Inception weights on disk."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "hub"))

from server import HubServer

from fmbench.features.inception import random_state


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache and a mirror where nobody listens."""
    monkeypatch.setenv("FMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FMBENCH_MIRROR", "http://127.0.0.1:9/files")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., HubServer]]:
    """``mirror({name: bytes}, fault)``: a server that FMBENCH_MIRROR points to."""
    running: list[HubServer] = []

    def start(files: dict[str, bytes], fault: str = "healthy") -> HubServer:
        folder = tmp_path / "served" / "datasets" / "some" / "files"
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        server = HubServer(tmp_path / "served", fault).__enter__()
        running.append(server)
        monkeypatch.setenv("FMBENCH_MIRROR", f"{server.url}/datasets/some/files/resolve/main")
        return server

    yield start
    for server in running:
        server.__exit__()


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random FID-Inception weights of seed 3 in the form in which the libraries load the real ones."""
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(random_state(3), path)
    return path
