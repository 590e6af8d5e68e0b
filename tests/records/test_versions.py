"""Goldens of declared versions: what each version of a definition gives. A change that moves one needs another version, and a golden for it.

``python tests/records/test_versions.py`` from the root of the checkout adds the goldens of versions that have none; it changes no other.
"""

import importlib.metadata
import json
import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

import fmbench
from fmbench.flows.flow import as_draws
from fmbench.methods.base import Batch
from fmbench.methods.published import Published
from fmbench.noise import STREAMS, Draws, draw, generator
from fmbench.records import versions
from fmbench.records.metric import BUILT_IN
from fmbench.records.recipe import closed
from fmbench.records.sampler import Sampler
from fmbench.registry import METHODS, SOLVERS, TASKS, create
from fmbench.zoo.building import build

GOLDENS = Path(__file__).parent / "golden_versions.json"
PROTOCOL = """
name = "golden"
version = 1
summary = "every metric"
tasks = ["{task}"]
samples = {samples}
seeds = {seeds}
samplers = [{{ solver = "euler", steps = 4 }}, {{ solver = "euler", steps = 1 }}]
metrics = [{metrics}]
flow = {{ samples = 64, steps = 16, probes = 32, probe_steps = 8 }}
latency = {{ batches = [1], seconds = 0.0 }}
rank = {{ vector = "wasserstein2", image = "frechet_distance", steps = 4 }}
"""
MEASURED = {"mixture-2d": (300, [0, 1]), "digits": (300, [0])}


class Field(nn.Module):
    """A smooth field that no weights stand for."""

    def forward(self, x, t):
        return 0.4 * torch.sin(2 * x) - (0.5 + 0.2 * t.view(-1, *[1] * (x.ndim - 1))) * x + 0.3


def of_solver(name):
    def field(x, t):
        return torch.sin(3 * x + t.view(-1, 1)) - x

    x = torch.linspace(-2, 2, 6, dtype=torch.float64).view(3, 2)
    kind = SOLVERS.resolve(name)
    if kind.stepless:
        return []  # a name: the pass is the bijection's own
    sampler = Sampler(name, None if kind.adaptive else 5)
    drawn = {"draws": Draws.given(x)} if kind.stochastic else {}
    return sampler.make_solver().solve(field, x, sampler.times(), **drawn).flatten().tolist()


def of_noise(stream):
    return draw(lambda n, g: torch.randn(n, 2, generator=g), 254, 258, 3, stream).flatten().tolist()


def of_sampling(stream):
    model = fmbench.load("digits/cfm")
    drawn = model.sample(2, seed=1, solver="heun", steps=2)
    return drawn.flatten()[20:28].tolist()


UNTRAINED = ("meanflow", "imf", "split-meanflow", "shortcut", "consistency", "consistency-distill")
UNTRAINED += ("edm", "immiscible", "immiscible-knn")
"""Methods without an entry of gaussian-moons."""


def untrained(name):
    """A method on weights that are drawn."""
    task = TASKS.resolve("gaussian-moons")()
    kind = METHODS.resolve(name)
    method = build(closed(task, name), task, kind, name).eval()
    with torch.no_grad():
        for index, parameter in enumerate(method.parameters()):
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator(index)))
    return method


def of_method(name):
    """Samples, and where it has one that a plain batch gives, the loss."""
    entry = {"rectified-flow": "rf-1", "reflow": "rf-2", "distill": "rf-distill"}.get(name, name)
    if name == "classifier":
        net = fmbench.load("digits/digits-cnn").method.net
        pixels = draw(lambda n, g: torch.randn(n, 1, 8, 8, generator=g), 0, 2, 0, "source")
        with torch.no_grad():
            return net(pixels).flatten()[:6].tolist()
    if name == "published":
        net = Published(Field(), "noise", "ddpm", "index", grid="leading")
        start = draw(lambda n, g: torch.randn(n, 2, generator=g), 0, 2, 0, "source")
        return net.sample(as_draws(start), Sampler("euler", 4)).flatten().tolist()
    if name in UNTRAINED:
        method = untrained(name)
        noise = draw(lambda n, g: torch.randn(n, 2, generator=g), 0, 2, 1, "source")
        with torch.no_grad():
            drawn = method.sample(Draws.given(noise), Sampler("euler", 4)).flatten().tolist()
    else:
        method = (model := fmbench.load(f"gaussian-moons/{entry}")).method
        drawn = model.sample(2, seed=1, steps=1 if name == "distill" else 4).flatten().tolist()
    if name in ("oracle", "distill", "reflow", "consistency-distill"):
        return drawn
    ends = [draw(lambda n, g: torch.randn(n, 2, generator=g), 0, 64, seed, "source") for seed in (0, 1)]
    with torch.no_grad():
        loss = method.loss(Batch(*ends), generator(5))
    return [*drawn, float(loss)]


def of_net(name):
    """Outputs of weights that are drawn, so that no zero hides a layer."""
    shape = (2,) if name == "mlp" else (1, 8, 8)
    tiny = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "block_out_channels": [8]}
    tiny |= {"norm_num_groups": 4, "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}
    small = {
        "dim": [1, 8, 8],
        "num_channels": 32,
        "num_res_blocks": 1,
        "channel_mult": [1],
        "attention_resolutions": "4",
    }
    sizes = {
        "mlp": {},
        "unet": {},
        "dit": {"patch": 4, "width": 16, "depth": 1, "heads": 2},
        "cnn": {},
        "diffusers": {"network": "UNet2DModel", "config": tiny},
        "torchcfm": {"network": "UNetModelWrapper", "config": {**small, "num_heads": 1, "num_head_channels": 8}},
    }[name]
    net = create("nets", name, shape=shape, num_classes=10 if name == "cnn" else 0, **sizes).eval()
    x = draw(lambda n, g: torch.randn(n, *shape, generator=g), 0, 2, 0, "source")
    with torch.no_grad():
        for index, parameter in enumerate(net.parameters()):
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator(index)))
        out = net(x) if name == "cnn" else net(x, torch.tensor([0.25, 0.75]))
    return out.flatten()[:8].tolist()


def of_metrics():
    found = {}
    for task, (samples, seeds) in MEASURED.items():
        names = ", ".join(f'"{name}"' for name in BUILT_IN)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "golden.toml"
            path.write_text(PROTOCOL.format(task=task, samples=samples, seeds=seeds, metrics=names))
            _, result = fmbench.evaluate(fmbench.wrap(Field(), task, "field"), path, extended=True)
        for name, estimate in {**result.rows[0].metrics, **result.flow}.items():
            if estimate.value is not None:
                found.setdefault(name, {})[task] = [estimate.value, *(estimate.ci or ())]
    return found


KINDS = {
    "solver": (versions.SOLVER_VERSIONS, of_solver),
    "method": ({**versions.METHOD_VERSIONS, **versions.TOOL_VERSIONS}, of_method),
    "net": (versions.NET_VERSIONS, of_net),
    "noise": (dict.fromkeys(STREAMS, versions.NOISE), of_noise),
    "sampling": ({"generate": versions.SAMPLING}, of_sampling),
}


def wanted():
    """(kind, name:version, what gives it now); metrics, which share one evaluation, apart."""
    for kind, (table, measure) in KINDS.items():
        for name, version in table.items():
            yield kind, f"{name}:{version}", lambda name=name, measure=measure: measure(name)


def metric_key(name):
    suffix = f":{versions.REFERENCE_SOLVE}" if BUILT_IN[name].scope == "flow" or BUILT_IN[name].first_seed else ""
    return f"{name}:{BUILT_IN[name].version}{suffix}"


def near(found, golden):
    return found == pytest.approx(golden, rel=2e-4, abs=2e-5)


@pytest.fixture(scope="module")
def goldens():
    return json.loads(GOLDENS.read_text())


WHAT = "came out otherwise: raise its version, then add its golden with python tests/records/test_versions.py"


@pytest.mark.parametrize(("kind", "key", "measure"), [pytest.param(*one, id="-".join(one[:2])) for one in wanted()])
def test_what_has_a_declared_version_gives_what_it_gave(kind, key, measure, goldens):
    assert near(measure(), goldens[kind][key]), f"{kind} {key} {WHAT}"


@pytest.mark.slow
def test_metrics_give_what_their_versions_gave(goldens):
    found = of_metrics()
    assert set(found) == set(BUILT_IN)
    for name, values in found.items():
        golden = goldens["metric"][metric_key(name)]
        for task, value in values.items():
            assert near(value, golden[task]), f"metric {metric_key(name)} {WHAT}"


def test_everything_registered_has_a_version():
    for registry, table in versions._TABLES:
        assert set(registry.table) == set(table)


@pytest.mark.slow
def test_a_plug_in_is_identified_by_its_package(monkeypatch):
    monkeypatch.setattr(
        SOLVERS, "all", lambda: {**SOLVERS.table, "mine": "torch.nn:Module", "gone": "nowhere_at_all:X"}
    )
    assert versions.declared(SOLVERS, "mine") == f"mine:torch {importlib.metadata.version('torch')}"
    assert versions.declared(SOLVERS, "gone") == "gone:?"
    assert versions.declared(SOLVERS, "euler") == f"euler:{versions.SOLVER_VERSIONS['euler']}"


def add_missing():
    """Goldens of versions that have none."""
    known = json.loads(GOLDENS.read_text()) if GOLDENS.is_file() else {}
    for kind, key, measure in wanted():
        if key not in known.setdefault(kind, {}):
            known[kind][key] = measure()
    metrics = known.setdefault("metric", {})
    if any(metric_key(name) not in metrics for name in BUILT_IN):
        for name, values in of_metrics().items():
            metrics.setdefault(metric_key(name), values)
    text = ",\n".join(
        f'"{kind}": {{\n' + ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(table.items())) + "\n}"
        for kind, table in known.items()
    )
    GOLDENS.write_text("{\n" + text + "\n}\n")


if __name__ == "__main__":
    add_missing()
