"""What a model does to the process ends with it: neither the next model nor the metrics of its own see it."""

from __future__ import annotations

import builtins
import dataclasses
import decimal
import gc
import json
import logging
import os
import random
import sys
import tempfile
import warnings
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import fmbench
from fmbench.execution.foreign import isolated, steady

PROTOCOL = """
name = "tiny"
version = 1
summary = "for tests"
tasks = ["gaussian-moons"]
samples = 300
seeds = [0]
samplers = [{ solver = "euler", steps = 2 }, { solver = "dopri5" }]
metrics = ["wasserstein2", "truncation_gap", "straightness", "nll", "lipschitz", "monge_gap"]
flow = { samples = 32, steps = 4, probes = 8, probe_steps = 4 }
latency = { batches = [1], seconds = 0.0 }
rank = { vector = "wasserstein2", image = "frechet_distance", steps = 2 }
"""


class Zero(TorchFunctionMode):
    """Takes every result for zero."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        return found * 0 if func is torch.add else found


def shadow():
    builtins.sum = lambda *_: 0


def leave():
    os.chdir(tempfile.gettempdir())


def hook():
    nn.modules.module.register_module_forward_hook(lambda module, args, out: out * 2 if torch.is_tensor(out) else out)


OUTSIDE = {
    "dtype": lambda: torch.set_default_dtype(torch.float64),
    "seed": lambda: torch.manual_seed(7),
    "numpy seed": lambda: np.random.seed(7),  # noqa: NPY002
    "python seed": lambda: random.seed(7),
    "threads": lambda: torch.set_num_threads(2),
    "gradients": lambda: torch.set_grad_enabled(True),
    "deterministic": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "precision": lambda: torch.set_float32_matmul_precision("medium"),
    "denormals": lambda: torch.set_flush_denormal(True),
    "numpy errors": lambda: np.seterr(all="raise"),
    "folder": leave,
    "environment": lambda: os.environ.update(OMP_NUM_THREADS="7", NEW="1"),
    "path": lambda: sys.path.insert(0, "/nowhere"),
    "arguments": lambda: sys.argv.append("x"),
    "streams": lambda: setattr(sys, "stdout", None),
    "built-ins": shadow,
    "recursion": lambda: sys.setrecursionlimit(5000),
    "collector": lambda: gc.disable(),
    "decimal": lambda: setattr(decimal.getcontext(), "prec", 3),
    "logging": lambda: logging.disable(logging.CRITICAL),
    "warnings": lambda: warnings.simplefilter("error"),
    "print options": lambda: np.set_printoptions(precision=1),
}
INSIDE = {
    "no gradients for ever": lambda: torch.no_grad().__enter__(),
    "device": lambda: torch.set_default_device("meta"),
    "device for ever": lambda: torch.device("meta").__enter__(),
    "inference for ever": lambda: torch.inference_mode().__enter__(),
    "autocast for ever": lambda: torch.autocast("cpu", torch.bfloat16).__enter__(),
    "mode for ever": lambda: Zero().__enter__(),
    "hook on all modules": hook,
    "anomalies": lambda: torch.autograd.set_detect_anomaly(True),
}
"""What reaches the computation of the model itself too, while it runs."""
NASTY = {**OUTSIDE, **INSIDE}


def _nesting() -> int:
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting()


def state() -> dict:
    """What of the process must be as before."""
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"), _nesting()),
        "modes": torch._C._len_torch_function_stack(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "denormal": float(torch.tensor(1e-40) * 1),
        "anomalies": torch.is_anomaly_enabled(),
        "hooks": len(nn.modules.module._global_forward_hooks),
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "python": random.getstate(),
        "errors": np.geterr(),
        "options": np.get_printoptions(),
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "path": list(sys.path),
        "arguments": list(sys.argv),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "sum": builtins.sum,
        "recursion": sys.getrecursionlimit(),
        "collector": gc.isenabled(),
        "decimal": decimal.getcontext().prec,
        "logging": logging.root.manager.disable,
        "filters": list(warnings.filters),
    }


@pytest.mark.parametrize("name", NASTY)
def test_everything_is_put_back(name):
    before = state()
    with isolated():
        NASTY[name]()
    assert state() == before


def test_everything_is_put_back_after_an_exception():
    def fail():
        with isolated():
            for change in OUTSIDE.values():
                change()
            raise KeyError

    before = state()
    with pytest.raises(KeyError):
        fail()
    assert state() == before


def test_a_deleted_folder_is_left_behind(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    before = Path.cwd()
    with isolated():
        os.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
    assert Path.cwd() == before


def test_a_field_that_is_called_in_between_changes_no_numerics():
    before = state()
    for name in (*INSIDE, "dtype", "threads", "gradients", "deterministic", "precision", "denormals", "numpy errors"):
        with steady():
            NASTY[name]()
    assert state() == before


class Field(nn.Module):
    """A field, and what it does beside."""

    def __init__(self, beside=lambda: None):
        super().__init__()
        self.beside = beside
        # Built without a draw, so that making one leaves the generator alone.
        self.line = nn.utils.skip_init(nn.Linear, 2, 2)
        with torch.no_grad():
            self.line.weight.copy_(torch.tensor([[0.3, -1.0], [1.0, 0.2]]))
            self.line.bias.zero_()

    def forward(self, x, t):
        self.beside()
        return self.line(x) + torch.add(t[:, None], 0.1)


def facts(result) -> dict:
    content = json.loads(json.dumps(dataclasses.asdict(result), default=msgspec.to_builtins))
    for key in ("seconds", "phases", "created", "peak_memory_bytes", "cost", "environment"):
        del content[key]
    # Another function, another code: what it gives has to be the same all the same.
    del content["model"]["code_sha256"], content["flow_id"]
    for row in content["rows"]:
        del row["latency"], row["id"]
    for estimate in (*content["flow"].values(), *(e for row in content["rows"] for e in row["metrics"].values())):
        del estimate["key"]
    return content


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("protocol") / "tiny.toml"
    path.write_text(PROTOCOL)
    return path


def evaluated(beside, tiny):
    return fmbench.evaluate(fmbench.wrap(Field(beside), "gaussian-moons", "field"), tiny, device="cpu")[1]


@pytest.fixture(scope="module")
def clean(tiny):
    return facts(evaluated(lambda: None, tiny))


@pytest.mark.slow
@pytest.mark.parametrize("name", NASTY)
def test_the_next_model_has_the_same_numbers_to_the_bit(name, tiny, clean):
    before = state()
    try:
        nasty = facts(evaluated(NASTY[name], tiny))
    except ValueError:
        # What reaches its own computation may fail the trial; it must still not reach the next.
        assert name in INSIDE
        nasty = None
    assert state() == before
    assert facts(evaluated(lambda: None, tiny)) == clean
    if name in OUTSIDE:
        assert nasty == clean, "the metrics of the model itself do not see what it sets"
