"""What a peer does and how it is done here, on one input each: generators of :class:`Pairing`, by group."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import script
import torch
from case import clouds
from torch import Tensor

import fmbench
from fmbench.evaluation.options import Options
from fmbench.evaluation.run import run
from fmbench.metrics.frechet import frechet_distance
from fmbench.noise import generator
from fmbench.paths.couplings import exact_pairs
from fmbench.records.recipe import closed
from fmbench.records.result import Result
from fmbench.registry import METHODS, TASKS
from fmbench.statistics.moments import Moments
from fmbench.storage.bundled import data_folder
from fmbench.storage.readers import read_toml
from fmbench.transport.exact import wasserstein2
from fmbench.zoo.extractors import load_extractor

SCRIPTED = ("frechet_distance", "kernel_distance", "precision", "recall", "straightness", "bits_per_dimension")
"""Metrics that the honest script has too."""


@dataclass(frozen=True)
class Pairing:
    """One piece of work, the same on both sides.

    Attributes:
        what, peer, input: how the table calls it.
        ours, theirs: give the number or the array that is compared; what they need was made before.
        once: takes so long that fewer pairs are timed and no call goes unmeasured before.
    """

    what: str
    peer: str
    input: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    once: bool = False


# -- the same core numbers ----------------------------------------------------------------------------------------------


def protocol_of(benchmark: str, folder: Path, **changes: Any) -> Path:
    """A copy of a bundled protocol with other values; tables are updated, lists replaced."""
    import tomli_w

    content = read_toml(data_folder("leaderboard") / "protocols" / f"{benchmark}.toml", "protocol")
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    path = folder / f"{benchmark}.toml"
    path.write_text(tomli_w.dumps(content))
    return path


def scripted(setting: script.Setting) -> dict[str, Any]:
    """The changes of the protocol ``digits`` that leave what the honest script computes."""
    return {
        "samples": setting.samples,
        "samplers": [{"solver": "euler", "steps": steps} for steps in setting.grids],
        "metrics": list(SCRIPTED),
        "flow": {
            "samples": setting.trajectories, "steps": setting.steps, "probes": setting.images, "probe_steps": setting.probe_steps,
        },
        "latency": {"batches": [1], "seconds": 0.0},
        "rank": {"steps": setting.grids[-1]},
    }  # fmt: skip


def numbers(result: Result) -> np.ndarray:
    """Those that are the same by definition and on the same noise: distances and shares of every sampler."""
    return np.array([row.metrics[name].value for row in result.rows for name in SCRIPTED[:4]], dtype=np.float64)


def core(quick: bool) -> Iterator[Pairing]:
    """``fmbench.evaluate`` with intervals, trial, costs and records beside the honest script, which has none of them."""
    setting = (
        script.Setting(2000, (1, 8, 32), 256, 32, 64, 8)
        if quick
        else script.Setting(10_000, (1, 2, 4, 8, 16, 32), 1024, 64, 64, 16)
    )
    model = fmbench.load("digits/cfm")

    def theirs() -> np.ndarray:
        found = script.scored(model, setting)
        return np.array([found[f"{name}@{steps}"] for steps in setting.grids for name in SCRIPTED[:4]])

    def ours() -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            return numbers(fmbench.evaluate(model, protocol_of("digits", Path(folder), **scripted(setting)))[-1])

    yield Pairing("core numbers", "honest script", f"digits/cfm, {setting.samples:,}", ours, theirs, once=True)


# -- sampling -----------------------------------------------------------------------------------------------------------


def samplings(quick: bool) -> Iterator[Pairing]:
    """Euler steps by others on the same network, noise and batch."""
    steps = 16
    for name, n in (("gaussian-8gaussians/cfm", 4096), ("digits/cfm", 256 if quick else 1024)):
        model = fmbench.load(name)
        net, noise, times = model.method.net, model.noise(0, n, 0), torch.linspace(0, 1, steps + 1)

        def field(t: Tensor, x: Tensor, *_: Any, net: Any = net, **__: Any) -> Tensor:
            return net(x, t.to(x).expand(len(x)))

        def loop(net: Any = net, x: Tensor = noise, **_: Any) -> Tensor:
            return script.euler(net, x, steps)

        def torchdiffeq(field: Any = field, x: Tensor = noise, times: Tensor = times) -> Tensor:
            from torchdiffeq import odeint

            return odeint(field, x, times, method="euler")[-1]

        def torchdyn(field: Any = field, x: Tensor = noise, times: Tensor = times) -> Tensor:
            from torchdyn.numerics import odeint

            return odeint(field, x, times, solver="euler")[1][-1]

        def diffusers(net: Any = net, x: Tensor = noise) -> Tensor:
            from diffusers import FlowMatchEulerDiscreteScheduler

            # Its sigma falls from 1 at the noise to 0 at the data, and its model output is noise minus data.
            scheduler = FlowMatchEulerDiscreteScheduler()
            scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))
            for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
                x = scheduler.step(-net(x, (1 - sigma).expand(len(x))), t, x, return_dict=False)[0]
            return x

        def ours(model: Any = model, n: int = n) -> Tensor:
            return model.sample(n, solver="euler", steps=steps, batch_size=n)

        peers = {"bare loop": loop, "torchdiffeq": torchdiffeq, "torchdyn": torchdyn, "diffusers": diffusers}
        for peer, theirs in peers.items():
            yield Pairing(f"{steps} Euler steps", peer, f"{name}, {n}", ours, torch.no_grad()(theirs))


# -- FID from samples ---------------------------------------------------------------------------------------------------


class Features(torch.nn.Module):
    """A feature network as torchmetrics takes it, with the attribute that it reads."""

    def __init__(self, network: Callable[[Tensor], Any], width: int) -> None:
        super().__init__()
        self.network, self.num_features = network, width

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)[0]


def fids(quick: bool) -> Iterator[Pairing]:
    """From generated images to the distance, reference known: features, moments, square root; the network is the same."""
    model = fmbench.load("digits/cfm")
    extractor = load_extractor(model.task.extractor or "")
    n = 1000 if quick else 10_000
    images, real = model.sample(n, steps=4).clamp(-1, 1), model.task.target.points()[0]  # type: ignore[attr-defined]
    known = extractor.features(real).astype(np.float64)
    moments = Moments.of(known)
    width = known.shape[1]

    def ours() -> float:
        found = Moments.of(extractor.features(images).astype(np.float64))
        return float(frechet_distance(found.mean, found.cov, moments.mean, moments.cov))

    @cache
    def metric() -> Any:
        from torchmetrics.image.fid import FrechetInceptionDistance

        made = FrechetInceptionDistance(
            Features(extractor.network, width), reset_real_features=False, input_img_size=tuple(real.shape[1:])
        )
        made.update(real, real=True)
        return made

    @torch.no_grad()
    def torchmetrics() -> float:
        made = metric()
        made.reset()
        for part in images.split(script.BATCH):
            made.update(part, real=False)
        return float(made.compute())

    @torch.no_grad()
    def clean_fid() -> float:
        from cleanfid.fid import frechet_distance as theirs

        found = np.concatenate([extractor.network(part)[0].numpy() for part in images.split(script.BATCH)])
        return float(theirs(found.mean(0), np.cov(found, rowvar=False), known.mean(0), np.cov(known, rowvar=False)))

    for peer, theirs in {"torchmetrics": torchmetrics, "clean-fid": clean_fid}.items():
        yield Pairing("FD from samples", peer, f"digits, {n:,}, {width}-d", ours, theirs)


# -- transport ----------------------------------------------------------------------------------------------------------


def transports(quick: bool) -> Iterator[Pairing]:
    """Exact W2 and the pairs of a batch by dimension."""
    from transport_cases import _emd2, _scipy_assignment

    n, batch = (500, 128) if quick else (1000, 256)
    for d in (2, 16, 64) if quick else (2, 8, 16, 64, 512):
        pair = clouds(n, d)
        for peer, theirs in {"POT emd2": _emd2, "scipy assignment": _scipy_assignment}.items():
            yield Pairing("exact W2", peer, f"{n}, {d}-d", partial(wasserstein2, *pair), partial(theirs, pair))
    for d in (2, 64) if quick else (2, 16, 64, 512):
        x0, x1 = (torch.from_numpy(points).float() for points in clouds(batch, d))

        def ours(x0: Tensor = x0, x1: Tensor = x1) -> float:
            i, j = exact_pairs(x0, x1)
            return float((x0[i] - x1[j]).square().sum(dim=1).mean())

        def torchcfm(x0: Tensor = x0, x1: Tensor = x1) -> float:
            from torchcfm.optimal_transport import OTPlanSampler

            # Without replacement, as ours: the plan is a permutation, and sampling from it would repeat some points.
            rows, columns = np.nonzero(OTPlanSampler(method="exact").get_map(x0, x1))
            return float((x0[rows] - x1[columns]).square().sum(dim=1).mean())

        yield Pairing("pairs of a batch", "torchcfm OTPlanSampler", f"{batch}, {d}-d", ours, torchcfm)


# -- training -----------------------------------------------------------------------------------------------------------


def trainings(quick: bool) -> Iterator[Pairing]:
    """A step of training, with the average of the weights on both sides, beside torchcfm's loop on the same network."""
    from fmbench.methods.base import Batch
    from fmbench.training.steps import Run
    from fmbench.zoo.building import build

    for task_name in ("gaussian-8gaussians", "digits"):
        task = TASKS.resolve(task_name)()
        for method in ("cfm", "ot-cfm"):
            recipe = closed(task, method)
            size = recipe.train.batch_size
            training, twin = (
                Run(recipe, build(recipe, task, METHODS.resolve(method), method).train()) for _ in range(2)
            )
            random = generator(0)
            batch = Batch(task.source.sample(size, random), task.target.sample(size, random))

            def ours(training: Run = training, batch: Batch = batch) -> float:
                return training.advance(lambda _: batch, "cpu")

            def torchcfm(twin: Run = twin, batch: Batch = batch, exact: bool = method == "ot-cfm") -> float:
                from torchcfm import conditional_flow_matching as matchers

                kind = "ExactOptimalTransport" if exact else ""
                matcher = getattr(matchers, f"{kind}ConditionalFlowMatcher")(sigma=0.0)
                t, x, target = matcher.sample_location_and_conditional_flow(batch.x0, batch.x1)
                loss = (twin.method.net(x, t) - target).square().mean()
                twin.optimiser.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(twin.method.parameters(), 1.0)
                twin.optimiser.step()
                twin.average.update_parameters(twin.method)
                return loss.item()

            yield Pairing(f"training step, {method}", "torchcfm", f"{task_name}, batch {size}", ours, torchcfm)


# -- growth -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Growth:
    """Work by size: ``call(size)``."""

    what: str
    sizes: tuple[int, ...]
    call: Callable[[int], Any]


def _evaluated(benchmark: str, entries: tuple[str, ...], **changes: Any) -> None:
    """A run of some entries, without latencies, one process."""
    with tempfile.TemporaryDirectory() as folder:
        spec = protocol_of(benchmark, Path(folder), **{"latency": {"batches": [1], "seconds": 0.0}, **changes})
        outcome = run(spec, entries, Path(folder) / "out", options=Options(workers=1))
    if outcome.errors:
        raise RuntimeError(outcome.errors[0])


def growths(quick: bool) -> Iterator[Growth]:
    """The core evaluation in n and in the number of entries, exact transport in n and d, the honest script in n."""
    setting = script.Setting(0, (4,), 64, 16, 16, 4)
    of_samples = ("frechet_distance", "kernel_distance", "precision", "recall")
    ns = (1000, 2000, 4000) if quick else (2500, 5000, 10_000)
    model = fmbench.load("digits/cfm")
    changes = {**scripted(setting), "metrics": list(of_samples)}
    yield Growth(
        "evaluate digits/cfm in n", ns, lambda n: _evaluated("digits", ("digits/cfm",), **{**changes, "samples": n})
    )
    yield Growth("honest script in n", ns, lambda n: script.scored(model, script.Setting(n, (4,), 64, 16, 16, 4)))
    entries = tuple(
        f"gaussian-8gaussians/{name}" for name in ("cfm", "fm", "ot-cfm", "rf-1", "rf-2", "rf-3", "sb-cfm", "w-cfm")
    )
    yield Growth(
        "quick by entries",
        (1, 2, 4) if quick else (2, 4, 8),
        lambda k: _evaluated("quick", entries[:k], tasks=["gaussian-8gaussians"], samples=256 if quick else 512),
    )
    for d in (2, 16):
        yield Growth(f"exact W2 in n, {d}-d", (250, 500, 1000), lambda n, d=d: wasserstein2(*clouds(n, d)))
    yield Growth("exact W2 in d, 500", (8, 64, 512), lambda d: wasserstein2(*clouds(500, d)))


GROUPS: dict[str, Callable[[bool], Iterator[Pairing]]] = {
    "core": core,
    "sampling": samplings,
    "fid": fids,
    "transport": transports,
    "training": trainings,
}


def quiet(call: Callable[[], Any]) -> Any:
    """What a call gives, without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call()
