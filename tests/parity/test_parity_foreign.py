"""Networks of other libraries, wrapped and sampled by fmbench, give what those libraries' own samplers give."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fmbench
from fmbench.flows.flow import as_draws
from fmbench.records.sampler import Sampler
from fmbench.shapes import as_condition
from fmbench.zoo.foreign import as_it_is, wrap

ROWS = 6


def drawn(
    model: Any, start: Tensor, steps: int, solver: str = "euler", labels: Tensor | None = None, guidance: float = 1.0
) -> Tensor:
    with torch.no_grad():
        return model.method.sample(as_draws(start), Sampler(solver, steps, guidance=guidance), as_condition(labels))


@pytest.fixture(scope="module")
def start() -> Tensor:
    return torch.randn((ROWS, 1, 8, 8), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()


def pipeline(scheduler: Any, net: Callable[[Tensor, Tensor], Tensor], start: Tensor, steps: int) -> Tensor:
    """The loop of a diffusers pipeline."""
    scheduler.set_timesteps(steps)
    x = start * scheduler.init_noise_sigma if hasattr(scheduler, "init_noise_sigma") else start
    with torch.no_grad():
        for t in scheduler.timesteps:
            given = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            x = scheduler.step(net(given, t), t, x).prev_sample
    return x


@pytest.mark.parametrize("steps", [1, 4, 10])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_of_diffusers(unet: nn.Module, start: Tensor, steps: int, shift: float) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs = pipeline(scheduler, lambda x, t: unet(x, t.expand(len(x))).sample, start, steps)
    model = wrap(
        unet,
        "digits",
        "flow",
        predicts="velocity",
        time="data_at_0",
        time_scale=1000,
        grid=lambda n: (scheduler.set_timesteps(n), scheduler.sigmas)[1],
    )
    assert float((drawn(model, start, steps) - theirs).abs().max()) < 2e-5


@pytest.mark.parametrize(("kind", "predicts"), [("epsilon", "noise"), ("sample", "data"), ("v_prediction", "v")])
@pytest.mark.parametrize("steps", [2, 10])
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
def test_ddim_of_diffusers(unet: nn.Module, start: Tensor, kind: str, predicts: str, steps: int, spacing: str) -> None:
    from diffusers import DDIMScheduler

    from fmbench.paths.schedules import DDPM

    scheduler = DDIMScheduler(prediction_type=kind, clip_sample=False, timestep_spacing=spacing)
    theirs = pipeline(scheduler, lambda x, t: unet(x, t.expand(len(x))).sample, start, steps)

    def grid(n: int) -> list[float]:
        scheduler.set_timesteps(n)
        return [*scheduler.timesteps.tolist(), -1]

    table = DDPM(scheduler.alphas_cumprod)
    model = wrap(unet, "digits", "ddim", predicts=predicts, schedule=table, time="index", grid=grid)
    near = {"noise": 1e-4, "data": 1e-5, "v": 1e-4}[predicts]  # noise is divided by a = .006 at the first step
    assert float((drawn(model, start, steps) - theirs).abs().max()) < near * max(1.0, float(theirs.abs().max()))


class Denoiser(nn.Module):
    """A network with the preconditioning of EDM around it: D(x; sigma)."""

    def __init__(self, net: nn.Module, data: float = 0.5) -> None:
        super().__init__()
        self.net, self.data = net, data

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        s = sigma.view(-1, 1, 1, 1)
        total = (s**2 + self.data**2).sqrt()
        out = self.net(x / total, sigma.log() / 4).sample
        return self.data**2 / total**2 * x + s * self.data / total * out


def karras(steps: int) -> Tensor:
    rho = torch.linspace(80.0 ** (1 / 7), 0.002 ** (1 / 7), steps, dtype=torch.float64) ** 7
    return torch.cat([rho, torch.zeros(1, dtype=torch.float64)])


def edm_sampler(denoise: Callable[[Tensor, Tensor], Tensor], start: Tensor, steps: int, heun: bool) -> Tensor:
    """Algorithm 1 of 2206.00364 without churn, in float64 like the authors' code."""
    levels, x = karras(steps), start.double()
    x = x * levels[0]
    for level, later in zip(levels[:-1], levels[1:], strict=True):

        def slope(y: Tensor, at: Tensor) -> Tensor:
            return (y - denoise(y.float(), at.float().expand(len(y))).double()) / at

        first = slope(x, level)
        ahead = x + (later - level) * first
        x = x + (later - level) * (first + slope(ahead, later)) / 2 if heun and later > 0 else ahead
    return x.float()


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_the_sampler_of_edm(unet: nn.Module, start: Tensor, solver: str) -> None:
    denoiser = Denoiser(unet)
    with torch.no_grad():
        theirs = edm_sampler(denoiser, start, 8, solver == "heun")
    model = wrap(denoiser, "digits", "edm", predicts="edm", schedule="edm", time="sigma", grid=karras)
    assert float((drawn(model, start, 8, solver) - theirs).abs().max()) < 2e-5


def test_the_scheduler_of_edm_in_diffusers(unet: nn.Module, start: Tensor) -> None:
    from diffusers import EDMEulerScheduler

    scheduler = EDMEulerScheduler()
    theirs = pipeline(scheduler, lambda x, t: unet(x, t.expand(len(x))).sample, start, 6)
    denoiser = Denoiser(unet)
    model = wrap(denoiser, "digits", "edm", predicts="edm", schedule="edm", grid=scheduler)
    assert float((drawn(model, start, 6) - theirs).abs().max()) < 5e-5
    # Given its levels alone, a grid starts from noise of the first one, as the authors do; the scheduler from sqrt(80^2 + 1).
    levels = wrap(denoiser, "digits", "edm", predicts="edm", schedule="edm", grid=scheduler.sigmas)
    assert float((drawn(levels, start, 6) - theirs).abs().max()) > 1e-5


def test_torchcfm_and_its_order_of_arguments() -> None:
    models = pytest.importorskip("torchcfm.models.models")
    from torchcfm.utils import torch_wrapper
    from torchdyn.core import NeuralODE

    torch.manual_seed(0)
    net, x = models.MLP(dim=2, time_varying=True), torch.randn((ROWS, 2), generator=torch.Generator().manual_seed(2))
    ode = NeuralODE(torch_wrapper(net), solver="euler", sensitivity="adjoint")
    with torch.no_grad():
        theirs = ode.trajectory(x, t_span=torch.linspace(0, 1, 101))[-1]
    wrapped = wrap(torch_wrapper(net), "gaussian-moons", "cfm", lambda m, x, t: m(t[0], x))
    assert torch.allclose(drawn(wrapped, x, 100), theirs, atol=2e-6)

    class TimeFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, t: Tensor, x: Tensor) -> Tensor:
            return self.net(torch.cat([x, t[:, None]], dim=-1))

    assert torch.allclose(drawn(wrap(TimeFirst(), "gaussian-moons", "cfm", arguments="tx"), x, 100), theirs, atol=2e-6)


@pytest.mark.parametrize("method", ["euler", "midpoint"])
def test_the_solver_of_flow_matching(method: str) -> None:
    solver = pytest.importorskip("flow_matching.solver")
    from flow_matching.utils import ModelWrapper

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 2))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.layers(torch.cat([x, t.reshape(-1, 1).expand(len(x), 1)], dim=1))

    class Theirs(ModelWrapper):
        def forward(self, x: Tensor, t: Tensor, **extras: Any) -> Tensor:
            return self.model(x, t)

    torch.manual_seed(0)
    net, x = Net(), torch.randn((ROWS, 2), generator=torch.Generator().manual_seed(3))
    theirs = solver.ODESolver(velocity_model=Theirs(net)).sample(x_init=x, step_size=0.1, method=method)
    assert torch.allclose(drawn(wrap(net, "gaussian-moons", "fm"), x, 10, method), theirs, atol=2e-6)


def test_classes_and_their_null_label(start: Tensor) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    net = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8,), norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), num_class_embeds=11,
    ).eval()  # fmt: skip
    model = wrap(net, "digits", "conditional", lambda m, x, t, y: m(x, 1000 * (1 - t), y), conditional=True)
    labels = torch.arange(ROWS)
    with torch.no_grad():
        told, null = (net(start, torch.full((ROWS,), 1000.0), y).sample for y in (labels, torch.full((ROWS,), 10)))
    assert torch.allclose(drawn(model, start, 1, labels=labels), start + told, atol=1e-5)
    guided = start + null + 3 * (told - null)
    assert torch.allclose(drawn(model, start, 1, labels=labels, guidance=3.0), guided, atol=1e-5)


@pytest.mark.parametrize(("kind", "predicts"), [("epsilon", "noise"), ("sample", "data"), ("v_prediction", "v")])
def test_clipped_ddim_of_diffusers(unet: nn.Module, start: Tensor, kind: str, predicts: str) -> None:
    from diffusers import DDIMScheduler

    from fmbench.paths.schedules import DDPM

    scheduler = DDIMScheduler(prediction_type=kind, clip_sample_range=0.5)
    theirs = pipeline(scheduler, lambda x, t: unet(x, t.expand(len(x))).sample, start, 10)
    table = DDPM(scheduler.alphas_cumprod)
    words = {"predicts": predicts, "schedule": table, "time": "index", "grid": scheduler}
    model = wrap(unet, "digits", "ddim", clip=0.5, **words)
    if predicts != "noise":
        # At index 900 noise is divided by a = 0.01, in float32 in both: that one is held to the library in float64, below.
        assert float((drawn(model, start, 10) - theirs).abs().max()) < 2e-5
    assert float((drawn(wrap(unet, "digits", "ddim", **words), start, 10) - theirs).abs().max()) > 1e-2
    assert "clips the data" in str(model.method.accepts(Sampler("heun", 10)))


@pytest.mark.parametrize(("kind", "predicts"), [("epsilon", "noise"), ("sample", "data"), ("v_prediction", "v")])
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("steps", [1, 20])
def test_ddim_is_that_of_diffusers_to_the_last_digits_in_float64(
    start: Tensor, kind: str, predicts: str, clip: float | None, steps: int, unet: nn.Module
) -> None:
    """In float32 both lose digits where they divide by a; in float64 nothing is left but rounding."""
    from diffusers import DDIMScheduler

    from fmbench.paths.schedules import DDPM

    wide, x = copy.deepcopy(unet).double(), start.double()
    clipping = {"clip_sample": clip is not None, "clip_sample_range": clip or 1.0}
    scheduler = DDIMScheduler(prediction_type=kind, timestep_spacing="trailing", **clipping)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    theirs = pipeline(scheduler, lambda y, t: wide(y, t.expand(len(y))).sample, x, steps)
    table, grid = DDPM(scheduler.alphas_cumprod), [*scheduler.timesteps.tolist(), -1]
    model = wrap(wide, "digits", "ddim", predicts=predicts, schedule=table, time="index", grid=grid, clip=clip)
    assert float((drawn(model, x, steps) - theirs).abs().max()) < 1e-9


def test_heun_of_flow_matching_in_diffusers(unet: nn.Module, start: Tensor) -> None:
    from diffusers import FlowMatchHeunDiscreteScheduler

    scheduler = FlowMatchHeunDiscreteScheduler(shift=3.0)
    theirs = pipeline(scheduler, lambda x, t: unet(x, t.expand(len(x))).sample, start, 6)
    model = wrap(unet, "digits", "flow", time="data_at_0", time_scale=1000, grid=scheduler)
    assert float((drawn(model, start, 6, "heun") - theirs).abs().max()) < 2e-5
    assert model.rows(0, 4, 0, Sampler("heun", 6), 4).evaluations.network == 4 * 11


@pytest.mark.parametrize("steps", [1, 5, 20])
def test_the_raw_network_of_edm(unet: nn.Module, start: Tensor, steps: int) -> None:
    from diffusers import EDMEulerScheduler

    words = {"predicts": "edm", "schedule": "edm", "time": "log_sigma_4", "sigma_data": 0.5}
    scheduler = EDMEulerScheduler()
    theirs = pipeline(scheduler, lambda x, t: unet(x, t.expand(len(x))).sample, start, steps)
    model = wrap(unet, "digits", "edm", grid=scheduler, **words)
    assert float((drawn(model, start, steps) - theirs).abs().max()) < 5e-5
    # By the authors' own sampler, which starts from noise of deviation 80 instead of sqrt(80^2 + 1).
    denoiser = Denoiser(unet)
    with torch.no_grad():
        authors = edm_sampler(denoiser, start, steps, heun=True)
    model = wrap(unet, "digits", "edm", grid="karras", **words)
    assert float((drawn(model, start, steps, "heun") - authors).abs().max()) < 2e-5
    assert model.rows(0, 4, 0, Sampler("heun", steps), 4).evaluations.network == 4 * (2 * steps - 1)


def test_a_named_grid_is_that_of_the_scheduler(unet: nn.Module, start: Tensor) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    words = {"time": "data_at_0", "time_scale": 1000}
    named, own = (wrap(unet, "digits", "f", grid=g, **words) for g in ("shifted", FlowMatchEulerDiscreteScheduler()))
    assert torch.allclose(drawn(named, start, 5), drawn(own, start, 5), atol=2e-6)


def test_latents_are_decoded_and_the_decoder_is_counted_apart(unet: nn.Module) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        in_channels=1, out_channels=1, latent_channels=1, block_out_channels=(4,), norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
    ).eval()  # fmt: skip
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    words = {"time": "data_at_0", "time_scale": 1000, "grid": scheduler}
    model = wrap(unet, "digits", "latent", latent=((1, 8, 8), lambda z: vae.decode(z / 0.3)), **words)
    noise = model.noise(0, 5, 0)
    latents = pipeline(scheduler, lambda x, t: unet(x, t.expand(len(x))).sample, noise, 4)
    with torch.no_grad():
        theirs = vae.decode(latents / 0.3).sample
    assert torch.allclose(model.sample(5, solver="euler", steps=4), theirs, atol=1e-5)
    assert model.rows(0, 5, 0, Sampler("euler", 4), 5).evaluations.rows == {"network": 20, "guidance": 0, "decoder": 5}
    assert model.parameters == sum(p.numel() for net in (unet, vae) for p in net.parameters())
    before = model.identity["weights_sha256"]
    with torch.no_grad():
        vae.post_quant_conv.bias += 1
    assert as_it_is(model).identity["weights_sha256"] != before


@pytest.mark.slow
def test_a_latent_model_is_evaluated(unet: nn.Module) -> None:
    model = wrap(unet, "digits", "latent", time="data_at_0", time_scale=1000, latent=((1, 8, 8), nn.Upsample(size=8)))
    _, result = fmbench.evaluate(model, "quick", limit=32)
    assert all(row.failed is None for row in result.rows)
    assert {row.nfe["decoder"] for row in result.rows} == {1}


@pytest.mark.slow
def test_a_wrapped_pipeline_is_evaluated_with_the_sampler_that_it_is_deployed_with(unet: nn.Module) -> None:
    model = wrap(Denoiser(unet), "digits", "edm", predicts="edm", schedule="edm", grid=karras)
    _, result = fmbench.evaluate(model, "quick", limit=32)
    rows = {row.sampler.label: row for row in result.rows}
    assert {label: row.nfe["network"] for label, row in rows.items()} == {"euler-1": 1, "euler-2": 2, "euler-8": 8}
    assert all(row.failed is None for row in rows.values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"predicts": "nois"}, "predicts must be one of"),
        ({"schedule": "cosine"}, "schedule must be one of"),
        ({"time": "sigma"}, "time must be one of data_at_1, data_at_0"),
        ({"predicts": "edm"}, 'give schedule="edm"'),
        ({"predicts": "v"}, "is it a velocity"),
        ({"predicts": "velocity", "schedule": "vp", "time": "data_at_1"}, "a velocity is by a clock"),
        ({"time_scale": 0}, "time_scale must be a positive number"),
        ({"arguments": "x"}, 'arguments must be "xt"'),
        ({"arguments": "tx", "call": lambda m, x, t: x}, "give one of them"),
        ({"conditional": True}, "needs a task with classes"),
        ({"grid": "karass"}, "grid must be one of shifted, karras"),
        ({"grid": "karras"}, "of times by sigma, and this schedule has data_at_1"),
        ({"grid": 3}, "or a scheduler of diffusers, got int"),
        ({"sigma_data": 0.5}, "for the raw network of a denoiser"),
        ({"clip": 1.0}, "limits predicted data along a grid"),
        ({"latent": (2, 4)}, "latent must be"),
        ({"latent": ((2, 0), nn.Identity())}, "latent must be"),
    ],
)
def test_words_that_make_no_sense_are_refused_in_one_line(words: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        wrap(nn.Identity(), "gaussian-moons", "mine", **words)
    assert "\n" not in str(error.value)


def test_noise_predictions_need_a_gaussian_source_and_grids_their_own_steps() -> None:
    with pytest.raises(ValueError, match="has Gaussian noise at its start"):
        wrap(nn.Identity(), "moons-8gaussians", "mine", predicts="noise")
    model = wrap(nn.Identity(), "gaussian-moons", "mine", predicts="noise", schedule="edm", grid=[80.0, 1.0, 0.0])
    assert model.method.accepts(Sampler("euler", 2)) is None
    assert "3 times, which are 2 steps, not 4" in str(model.method.accepts(Sampler("euler", 4)))
    assert "euler and heun step through" in str(model.method.accepts(Sampler("dopri5")))
    back = wrap(nn.Identity(), "gaussian-moons", "mine", predicts="noise", schedule="edm", grid=[0.0, 1.0, 80.0])
    assert "must run from noise to data" in str(back.method.accepts(Sampler("euler", 2)))
