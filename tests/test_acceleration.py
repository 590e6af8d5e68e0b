"""Acceleration changes how a network is computed, and nothing that anyone can see: samples, counts, weights, copies."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from fmbench.evaluation.acceleration import Acceleration, Forward, accelerate_net
from fmbench.evaluation.options import Options
from fmbench.methods.base import Batch
from fmbench.methods.cfm import CFM
from fmbench.nets.dit import DiT
from fmbench.nets.mlp import MLP
from fmbench.nets.unet import UNet
from fmbench.noise import generator
from fmbench.records import protocol
from fmbench.records.sampler import Sampler
from fmbench.shapes import Condition
from fmbench.zoo.model import generate

SHAPE = (1, 8, 8)
N, CLASSES = 6, 3
NETS: dict[str, Callable[[], nn.Module]] = {
    "unet": lambda: UNet(SHAPE, CLASSES, channels=16, patch=2, adm=True),
    "dit": lambda: DiT(SHAPE, CLASSES, width=24, depth=2, heads=2),
    "mlp": lambda: MLP(SHAPE, CLASSES, width=16, depth=2),
}
EVERY = [Acceleration(), Acceleration("bfloat16", channels_last=True), Acceleration(compile="default")]
GUIDED = Sampler("heun", 2, guidance=2.0)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile without its code generator: what it captures runs eagerly, so no compiler is needed."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch.compiler.reset()


@pytest.fixture
def make(seeded: Callable[..., nn.Module]) -> Callable[[str], CFM]:
    def build(name: str) -> CFM:
        method = CFM(seeded(NETS[name])).eval()
        random = generator(41)
        for p in method.parameters():
            p.data += 0.05 * torch.randn(p.shape, generator=random)
        return method

    return build


def inputs(n: int = N) -> tuple[Tensor, Tensor]:
    return torch.randn((n, *SHAPE), generator=generator(42)), torch.arange(n) % CLASSES


def batch() -> Batch:
    x, labels = inputs()
    return Batch(x, x.flip(0), labels)


@pytest.mark.parametrize("name", ["unet", "dit"])
def test_channels_last_changes_nothing_but_rounding(name: str, make) -> None:
    method = make(name)
    x, labels = inputs()
    plain = generate(method, x, GUIDED, labels).samples
    accelerate_net(method, Acceleration(channels_last=True))
    samples = generate(method, x, GUIDED, labels).samples
    assert samples.is_contiguous()
    assert torch.allclose(samples, plain, atol=1e-5)


def test_channels_last_reaches_the_deepest_layer_and_leaves_the_weights(make) -> None:
    method = make("unet")
    x, _ = inputs()
    seen = []
    method.net.middle[0].conv1.register_forward_hook(lambda _m, args, out: seen.extend([args[0], out]))
    method.net(x, torch.rand(N, generator=generator(43)))
    accelerate_net(method, Acceleration(channels_last=True))
    method.net(x, torch.rand(N, generator=generator(43)))
    assert [h.is_contiguous(memory_format=torch.channels_last) for h in seen] == [False, False, True, True]
    assert all(p.is_contiguous() for p in method.parameters())


@pytest.mark.parametrize("name", ["unet", "dit"])
def test_bfloat16_stays_within_its_tolerance(name: str, make) -> None:
    method = make(name)
    x, labels = inputs(64)
    t = torch.rand(64, generator=generator(44))
    plain = method.net(x, t, cond=Condition(labels)).detach()
    accelerate_net(method, Acceleration("bfloat16"))
    rounded = method.net(x, t, cond=Condition(labels)).detach()
    assert rounded.dtype == torch.float32
    error = float((rounded - plain).square().mean().sqrt() / plain.std())
    assert 1e-4 < error < 3e-2
    assert generate(method, x, GUIDED, labels).samples.dtype == torch.float32


def test_vectors_have_no_channels(seeded) -> None:
    method = CFM(seeded(lambda: MLP((2,))))
    x = torch.randn((5, 2), generator=generator(45))
    plain = method.net(x, torch.zeros(5))
    accelerate_net(method, Acceleration(channels_last=True))
    assert torch.equal(method.net(x, torch.zeros(5)), plain)


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("options", EVERY, ids=str)
def test_counts_and_weights_survive(options: Acceleration, make) -> None:
    method = make("mlp")
    x, labels = inputs()
    plain, weights = generate(method, x, GUIDED, labels), copy.deepcopy(method.state_dict())
    accelerate_net(method, options)
    fast = generate(method, x, GUIDED, labels)
    assert fast.evaluations == plain.evaluations
    assert torch.allclose(fast.samples, plain.samples, atol=0.1 if options.dtype == "bfloat16" else 1e-5)
    assert list(method.state_dict()) == list(weights)
    assert all(torch.equal(v, weights[k]) for k, v in method.state_dict().items())
    method.load_state_dict(weights)
    accelerate_net(method, Acceleration())
    assert "forward" not in vars(method.net)
    assert torch.equal(generate(method, x, GUIDED, labels).samples, plain.samples)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("options", EVERY, ids=str)
def test_a_copy_computes_with_its_own_weights(options: Acceleration, make) -> None:
    """The moving average of training is a deep copy of the method."""
    method = make("mlp")
    accelerate_net(method, options)
    x, labels = inputs()
    t = torch.rand(N, generator=generator(46))
    average = torch.optim.swa_utils.AveragedModel(method)
    assert isinstance(average.module, CFM)
    before = method.net(x, t, cond=Condition(labels))
    assert torch.allclose(average.module.net(x, t, cond=Condition(labels)), before, atol=1e-6)
    for p in average.module.parameters():
        p.data.zero_()
    assert (average.module.net(x, t, cond=Condition(labels)) == 0).all()
    assert torch.equal(method.net(x, t, cond=Condition(labels)), before)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("options", EVERY[1:], ids=str)
def test_training_sees_the_same_gradients(options: Acceleration, make) -> None:
    method = make("mlp" if options.compile != "none" else "unet").train()

    def gradient() -> Tensor:
        method.zero_grad()
        method.loss(batch(), generator(47)).backward()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in method.parameters())
        return torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])

    plain = gradient()
    accelerate_net(method, options)
    error = float((gradient() - plain).norm() / plain.norm())
    assert error < (3e-2 if options.dtype == "bfloat16" else 1e-5)


def test_options_replace_one_another(make) -> None:
    method = make("unet")
    x, _ = inputs()
    t = torch.rand(N, generator=generator(48))
    accelerate_net(method, Acceleration("bfloat16"))
    rounded = method.net(x, t)
    accelerate_net(method, Acceleration(channels_last=True))
    accelerate_net(method, Acceleration("bfloat16"))
    assert torch.equal(method.net(x, t), rounded)


def test_keyword_calls_pass_through(make) -> None:
    method = make("dit")
    x, labels = inputs()
    t = torch.rand(N, generator=generator(49))
    accelerate_net(method, Acceleration("bfloat16"))
    assert torch.equal(method.net(x=x, t=t, cond=Condition(labels)), method.net(x, t, cond=Condition(labels)))


def test_a_forward_replaced_by_others_is_not_overwritten(make) -> None:
    method = make("unet")
    method.net.forward = lambda x, t: x
    with pytest.raises(ValueError, match="the forward of UNet is already replaced"):
        accelerate_net(method, Acceleration("bfloat16"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "float16"}, "unknown dtype 'float16'; allowed: float32, bfloat16"),
        (
            {"compile": "max-autotune"},
            "unknown compile mode 'max-autotune'; allowed: none, default, max-autotune-no-cudagraphs, reduce-overhead",
        ),
    ],
    ids=str,
)
def test_unknown_options_are_one_clear_line(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Acceleration(**settings)


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """CUDA graphs as far as a CPU has them: a compiler whose code writes every output into the memory of the one before. Its modes."""
    modes: list[str] = []

    def backend(graph: torch.fx.GraphModule, _inputs: list[Tensor], mode: str) -> Callable[..., list[Tensor]]:
        kept: list[Tensor] = []
        modes.append(mode)

        def replay(*args: Tensor) -> list[Tensor]:
            made = graph(*args)
            if [out.shape for out in made] != [out.shape for out in kept]:
                kept[:] = [out.clone() for out in made]
            for out, new in zip(kept, made, strict=True):
                out.copy_(new)
            return list(kept)

        return replay

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    monkeypatch.setattr(Acceleration, "require", lambda *_: None)
    torch.compiler.reset()
    return modes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("sampler", [Sampler("heun", 2), Sampler("rk4", 2), GUIDED], ids=lambda s: s.label)
def test_graphs_that_overwrite_their_output_change_no_sample_and_no_count(
    replayed, make, sampler: Sampler, dtype: str
) -> None:
    """A solver of stages, and guidance, hold several outputs at once; the last batch is a smaller one."""
    method = make("mlp")
    x, labels = inputs()
    given = labels if sampler.guidance != 1 else None
    accelerate_net(method, Acceleration(dtype))
    plain = generate(method, x, sampler, given, batch_size=4)
    accelerate_net(method, Acceleration(dtype, compile="reduce-overhead"))
    fast = generate(method, x, sampler, given, batch_size=4)
    assert set(replayed) == {"reduce-overhead"}
    assert fast.evaluations == plain.evaluations
    assert torch.allclose(fast.samples, plain.samples, atol=1e-5)


@pytest.mark.usefixtures("replayed")
def test_without_its_copy_a_replayed_output_is_lost(make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check can fail."""
    method = make("mlp")
    x, _ = inputs()
    plain = generate(method, x, Sampler("heun", 2)).samples
    accelerate_net(method, Acceleration(compile="reduce-overhead"))
    monkeypatch.setattr(Forward, "_own", lambda self, output: output)
    assert not torch.allclose(generate(method, x, Sampler("heun", 2)).samples, plain, atol=1e-5)


def test_graphs_need_a_gpu(make) -> None:
    options = Acceleration(compile="reduce-overhead")
    line = "compile mode 'reduce-overhead' replays CUDA graphs and the device is the CPU; take a GPU, or one of none, default, max"
    with pytest.raises(ValueError, match=line):
        accelerate_net(make("mlp"), options)
    with pytest.raises(ValueError, match=line):
        Options("cpu", compile="reduce-overhead").check(protocol.read("quick"))
    options.require("cuda")


def test_graphs_are_recorded_and_not_ranked() -> None:
    used = Options("cuda", compile="reduce-overhead")
    assert not used.ranked
    assert used.unranked_because == ("the network was compiled, mode reduce-overhead (--compile)",)
    assert asdict(used.acceleration)["compile"] == "reduce-overhead"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a C++ compiler")
def test_compiled_samples_are_the_eager_ones(seeded) -> None:
    method = CFM(seeded(lambda: UNet(SHAPE, patch=2, channels=8, multipliers=(1,), attention=()))).eval()
    random = generator(50)
    for p in method.parameters():
        p.data += 0.05 * torch.randn(p.shape, generator=random)
    x, _ = inputs()
    plain = generate(method, x, Sampler("heun", 2))
    accelerate_net(method, Acceleration(compile="default"))
    compiled = generate(method, x, Sampler("heun", 2))
    assert compiled.evaluations == plain.evaluations
    assert torch.allclose(compiled.samples, plain.samples, atol=1e-5)
    assert not [name for name in method.state_dict() if "_orig_mod" in name]
