"""A small dataset, the real copies where reachable, and a client that sees the loopback only."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants
from model_hub import ModelHub
from server import HubServer
from tiny_dataset import Tiny, make_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_tiny(tmp_path_factory.mktemp("tiny"), (3, 8, 6))


@pytest.fixture(scope="session")
def real_hub() -> Path:
    """The folder of real copies: FMBENCH_TEST_HUB, or shared/hub beside the checkout."""
    named = os.environ.get("FMBENCH_TEST_HUB")
    folder = Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "hub"
    if not (folder / "datasets").is_dir():
        pytest.skip(f"no copy of the real datasets at {folder}; set FMBENCH_TEST_HUB to a folder laid out like the Hub")
    return folder


@pytest.fixture(autouse=True)
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Empty caches, no folder, no token, an endpoint where nobody listens, no waiting between retries."""
    for name in ("FMBENCH_DATA", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "client"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    without_waiting = SimpleNamespace(**{**vars(time), "sleep": lambda _: None})
    monkeypatch.setattr("huggingface_hub.utils._http.time", without_waiting)
    monkeypatch.setattr("huggingface_hub.file_download.time", without_waiting)
    yield
    huggingface_hub.close_session()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., HubServer]]:
    """``serve(folder, fault)``: a loopback Hub that HF_ENDPOINT points to."""
    running: list[HubServer] = []

    def start(folder: Path, fault: str = "healthy") -> HubServer:
        hub = HubServer(folder, fault).__enter__()
        running.append(hub)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        return hub

    yield start
    huggingface_hub.close_session()
    for hub in running:
        hub.__exit__()


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    """An empty loopback Hub of models that HF_ENDPOINT points to; nothing goes by another protocol than HTTP."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with ModelHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub
        huggingface_hub.close_session()
