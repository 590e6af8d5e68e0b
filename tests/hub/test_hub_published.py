"""Models that were published with diffusers: saved by the library, served by a Hub, adopted as entries, sampled as the library samples them."""

from __future__ import annotations

import importlib
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model_hub import ModelHub

import fmbench
from fmbench.cli import main
from fmbench.flows.flow import as_draws
from fmbench.nets.published import TORCHCFM
from fmbench.records.recipe import parse, read
from fmbench.records.sampler import Sampler
from fmbench.registry import TASKS
from fmbench.shapes import as_condition
from fmbench.zoo.published import recipe_of

diffusers = pytest.importorskip("diffusers")
REPO = "some/model"


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def net(**more: Any) -> Any:
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"), **more,
    ).eval()  # fmt: skip


SCHEDULERS: dict[str, Callable[[], Any]] = {
    "flow": lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    "ddim": lambda: diffusers.DDIMScheduler(
        clip_sample=False, prediction_type="v_prediction", timestep_spacing="trailing"
    ),
    "clipped": lambda: diffusers.DDPMScheduler(clip_sample_range=0.8, beta_schedule="squaredcos_cap_v2"),
    "offset": lambda: diffusers.DDIMScheduler(
        clip_sample=False, set_alpha_to_one=False, steps_offset=1, num_train_timesteps=100
    ),
    "edm": lambda: diffusers.EDMEulerScheduler(sigma_max=40.0),
    "scaled": lambda: diffusers.DDIMScheduler(
        clip_sample=False, prediction_type="sample", beta_schedule="scaled_linear"
    ),
}


@pytest.fixture
def publish(models: ModelHub, tmp_path: Path) -> Callable[..., tuple[Any, Any, str]]:
    """``publish(kind, subfolder)``: network, scheduler, and the pinned address of a repository with both."""

    def put(kind: str, subfolder: str = "", **more: Any) -> tuple[Any, Any, str]:
        made, scheduler, folder = net(**more), SCHEDULERS[kind](), tmp_path / "saved"
        made.save_pretrained(folder / subfolder)
        scheduler.save_pretrained(folder / "scheduler")
        repo = models.contents.add(REPO, files_of(folder))
        return made, scheduler, f"hf:{REPO}@{repo.find('main')}"

    return put


def theirs(made: Any, scheduler: Any, start: torch.Tensor, steps: int) -> torch.Tensor:
    if isinstance(scheduler, diffusers.DDPMScheduler):
        # Its own steps add noise; models of it are commonly stepped through by DDIM.
        scheduler = diffusers.DDIMScheduler.from_config(scheduler.config)
    scheduler.set_timesteps(steps)
    x = start * getattr(scheduler, "init_noise_sigma", 1.0)
    with torch.no_grad():
        for t in scheduler.timesteps:
            given = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            x = scheduler.step(made(given, t.expand(len(x))).sample, t, x).prev_sample
    return x


@pytest.mark.parametrize("kind", list(SCHEDULERS))
@pytest.mark.parametrize("subfolder", ["", "unet"])
def test_it_is_sampled_as_its_library_does(
    kind: str, subfolder: str, publish: Callable[..., Any], tmp_path: Path
) -> None:
    made, scheduler, address = publish(kind, subfolder)
    out = tmp_path / "entries" / "adopted"
    assert main(["adopt", address, "--task", "digits", "--out", str(out)]) == 0
    recipe = read(out / "recipe.toml")
    assert recipe.weights is not None and recipe.weights.source == address and recipe.division == "open"
    assert recipe.weights.parameters == sum(p.numel() for p in made.parameters())
    model = fmbench.load(str(out))
    start = torch.randn((5, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    for steps in (1, 5):
        with torch.no_grad():
            ours = model.method.sample(as_draws(start), Sampler("euler", steps))
        wanted = theirs(made, scheduler, start, steps)
        # A noise prediction is divided by a = 0.006 at the first step.
        near = {"clipped": 1e-4, "offset": 1e-4}.get(kind, 2e-5)
        assert float((ours - wanted).abs().max()) < near * max(1.0, float(wanted.abs().max()))


def test_it_is_loaded_by_its_address_for_a_task(publish: Callable[..., Any], models: ModelHub) -> None:
    made, scheduler, address = publish("ddim")
    start = torch.randn((5, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    for _ in range(2):
        model = fmbench.load(address, task="digits")
        assert model.name == "digits/some--model" and model.identity["hub"] == address
        with torch.no_grad():
            ours = model.method.sample(as_draws(start), Sampler("euler", 4))
        assert float((ours - theirs(made, scheduler, start, 4)).abs().max()) < 2e-5
        models.log.clear()
    with pytest.raises(ValueError, match=f"fmbench adopt {address} --task TASK"):
        fmbench.load(address)


def test_classes_and_the_null_label(publish: Callable[..., Any]) -> None:
    made, _, address = publish("flow", num_class_embeds=11)
    model, start, labels = fmbench.load(address, task="digits"), torch.randn((3, 1, 8, 8)), torch.tensor([0, 4, 9])
    assert model.conditional
    with torch.no_grad():
        told, null = (made(start, 1000, y).sample for y in (labels, torch.full((3,), 10)))
        plain = model.method.sample(as_draws(start), Sampler("euler", 1), as_condition(labels))
        guided = model.method.sample(as_draws(start), Sampler("euler", 1, guidance=2.0), as_condition(labels))
    assert torch.allclose(plain, start - told, atol=1e-5)
    assert torch.allclose(guided, start - (null + 2 * (told - null)), atol=1e-5)
    found = model.rows(0, 3, 0, Sampler("euler", 2, guidance=2.0), 3)
    assert found.evaluations.rows == {"network": 6, "guidance": 6}


def test_classes_without_a_null_label_are_not_guided(publish: Callable[..., Any]) -> None:
    _, _, address = publish("flow", num_class_embeds=10)
    model = fmbench.load(address, task="digits")
    assert model.sample(2, steps=1).shape == (2, 1, 8, 8)
    with pytest.raises(ValueError, match="guidance needs"):
        model.sample(2, steps=1, guidance=2.0)


def test_other_classes_than_the_task_has_are_refused(publish: Callable[..., Any]) -> None:
    _, _, address = publish("flow", num_class_embeds=1001)
    with pytest.raises(ValueError, match="knows 1001 labels, and this entry has 10 classes"):
        fmbench.load(address, task="digits")


def test_a_transformer_with_its_null_label(models: ModelHub, tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=1, out_channels=2, num_layers=2, sample_size=8,
        num_embeds_ada_norm=10, norm_num_groups=1,
    ).eval()  # fmt: skip
    scheduler = diffusers.DDIMScheduler(clip_sample=False, prediction_type="v_prediction")
    made.save_pretrained(tmp_path / "saved/transformer")
    scheduler.save_pretrained(tmp_path / "saved/scheduler")
    repo = models.contents.add("some/dit", files_of(tmp_path / "saved"))
    model = fmbench.load(f"hf:some/dit@{repo.find('main')}", task="digits")
    x = start = torch.randn((4, 1, 8, 8), generator=torch.Generator().manual_seed(2))
    labels, null = torch.arange(4), torch.full((4,), 10)
    scheduler.set_timesteps(5)
    with torch.no_grad():
        for t in scheduler.timesteps:
            told, none = (made(x, t.expand(4), y).sample[:, :1] for y in (labels, null))
            x = scheduler.step(none + 1.5 * (told - none), t, x).prev_sample
        ours = model.method.sample(as_draws(start), Sampler("euler", 5, guidance=1.5), as_condition(labels))
    assert float((ours - x).abs().max()) < 2e-5


TABLE = """
[foreign]
library = "torchcfm"
network = "{network}"
file = "cfm.safetensors"
[foreign.config]
{config}
"""
OF_TORCHCFM = {
    "MLP": ("gaussian-moons", "dim = 2\ntime_varying = true\nw = 16", {"dim": 2, "time_varying": True, "w": 16}),
    "UNetModelWrapper": (
        "digits",
        "dim = [1, 8, 8]\nnum_channels = 32\nnum_res_blocks = 1\nchannel_mult = [1]\nnum_heads = 2",
        {"dim": [1, 8, 8], "num_channels": 32, "num_res_blocks": 1, "channel_mult": [1], "num_heads": 2},
    ),
}


@pytest.fixture
def torchcfm(models: ModelHub, tmp_path: Path) -> Callable[[str], tuple[Any, str, Path]]:
    """``torchcfm(network)``: network, pinned address, and the file with its table."""
    pytest.importorskip("torchcfm")

    def put(network: str) -> tuple[Any, str, Path]:
        from safetensors.torch import save

        _, text, config = OF_TORCHCFM[network]
        torch.manual_seed(0)
        made = getattr(importlib.import_module(TORCHCFM[network]), network)(**config).eval()
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.1)  # its last layer starts at 0
        repo = models.contents.add("some/cfm", {"cfm.safetensors": save(made.state_dict())})
        (tmp_path / "cfm.toml").write_text(TABLE.format(network=network, config=text))
        return made, f"hf:some/cfm@{repo.find('main')}", tmp_path / "cfm.toml"

    return put


@pytest.mark.parametrize("network", list(OF_TORCHCFM))
def test_a_checkpoint_of_torchcfm_is_sampled_as_torchcfm_and_flow_matching_do(
    network: str, torchcfm: Callable[..., Any], tmp_path: Path
) -> None:
    torchdiffeq = pytest.importorskip("torchdiffeq")
    solver = pytest.importorskip("flow_matching.solver")
    made, address, table = torchcfm(network)
    task, out = OF_TORCHCFM[network][0], tmp_path / "entries" / "cfm"
    assert main(["adopt", address, "--task", task, "--foreign", str(table), "--out", str(out)]) == 0
    assert "[foreign]" in (out / "recipe.toml").read_text()
    model = fmbench.load(str(out))
    start = torch.randn((5, *model.task.shape), generator=torch.Generator().manual_seed(1))

    def field(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return made(t, x) if network != "MLP" else made(torch.cat([x, t.expand(len(x), 1)], dim=-1))

    with torch.no_grad():
        # As examples/images/cifar10/compute_fid.py of torchcfm samples.
        span = torch.linspace(0, 1, 11)
        wanted = torchdiffeq.odeint(lambda t, x: field(x, t), start, span, method="euler")[-1]
        ours = model.method.sample(as_draws(start), Sampler("euler", 10))
        middle = model.method.sample(as_draws(start), Sampler("midpoint", 10))
    third = solver.ODESolver(velocity_model=field).sample(x_init=start, step_size=0.1, method="midpoint")
    assert torch.allclose(ours, wanted, atol=1e-5)
    assert torch.allclose(middle, third, atol=1e-5)
    assert model.rows(0, 5, 0, Sampler("midpoint", 10), 5).evaluations.rows["network"] == 100


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('library = "torchcfm"', 'library = "pickle"', "library must be one of diffusers, torchcfm, got 'pickle'"),
        ('network = "MLP"', 'network = "eval"', "network must be one of UNetModelWrapper, MLP of torchcfm"),
        ('network = "MLP"', "", "missing network"),
        ("w = 16", "w = 17", "cfm.safetensors"),
        ("w = 16", "os = 17", "os"),
        ('file = "cfm.safetensors"', "", "needs a table"),
        ('file = "cfm.safetensors"', 'file = "cfm.pt"', "can hold a pickle"),
        ('file = "cfm.safetensors"', 'file = "../cfm.safetensors"', "has no ../cfm.safetensors"),
        ('network = "MLP"', 'network = "MLP"\nsha256 = "00"', "sha256 is '00', and hf:some/cfm"),
        ('network = "MLP"', 'network = "MLP"\npredicts = "nois"', "predicts must be one of"),
        ('network = "MLP"', 'network = "MLP"\ngrid = "karras"', "times by sigma"),
        ('network = "MLP"', 'network = "MLP"\nclip = 1.0', "limits predicted data along a grid"),
        ("[foreign]", "[method]\nname = 'cfm'\n[foreign]", "it stands for [method]"),
    ],
)
def test_tables_that_make_no_sense_are_refused_in_one_line(
    old: str, new: str, words: str, torchcfm: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, address, table = torchcfm("MLP")
    table.write_text(table.read_text().replace(old, new, 1))
    out = tmp_path / "entries" / "cfm"
    told = main(["adopt", address, "--task", "gaussian-moons", "--foreign", str(table), "--out", str(out)])
    err = capsys.readouterr().err
    assert told == 1 and words in err and len(err.strip().splitlines()) == 1, err
    assert not out.exists()


def test_the_table_is_the_recipe(publish: Callable[..., Any], tmp_path: Path) -> None:
    _, _, address = publish("ddim")
    made = recipe_of(address, TASKS.resolve("digits")())
    text = made.to_toml()
    assert parse(tomllib.loads(text)) == made and "[method]" not in text
    table = tomllib.loads(text)["foreign"]
    assert {"library", "repo", "revision", "sha256", "predicts", "schedule", "time"} < set(table)


@pytest.mark.slow
def test_an_adopted_entry_is_evaluated_and_counted_like_any_other(publish: Callable[..., Any], tmp_path: Path) -> None:
    _, _, address = publish("flow")
    out = tmp_path / "entries" / "adopted"
    main(["adopt", address, "--task", "digits", "--out", str(out)])
    assert main(["run", "quick", "-m", str(out), "--limit", "16", "--out", str(tmp_path / "runs")]) == 0
    found = json.loads((tmp_path / "runs/results/quick/digits/adopted.json").read_text())
    assert {tuple(d["sampler"][:2]): d["nfe"]["network"] for d in found["draws"].values()} == {
        ("euler", 1): 1.0, ("euler", 2): 2.0, ("euler", 8): 8.0,
    }  # fmt: skip
    assert found["entry"]["division"] == "open"


def test_weights_that_changed_since_are_refused(publish: Callable[..., Any], models: ModelHub, tmp_path: Path) -> None:
    _, _, address = publish("flow")
    out = tmp_path / "entries" / "adopted"
    main(["adopt", address, "--task", "digits", "--out", str(out)])
    text = (out / "recipe.toml").read_text()
    sha = read(out / "recipe.toml").weights.sha256  # type: ignore[union-attr]
    (out / "recipe.toml").write_text(text.replace(sha, "0" * 64))
    with pytest.raises(ValueError, match="SHA-256"):
        fmbench.load(str(out))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda files: files.pop("config.json"), "has no config.json of diffusers"),
        (lambda files: files.pop("diffusion_pytorch_model.safetensors"), "the weights in safetensors"),
        (
            lambda files: files.update(
                {"diffusion_pytorch_model.bin": files.pop("diffusion_pytorch_model.safetensors")}
            ),
            "can hold a pickle",
        ),
        (lambda files: files.update({"config.json": b"[]"}), "must be a table"),
        (lambda files: files.update({"config.json": b'{"_class_name": "__import__"}'}), "of diffusers UNet2DModel"),
        (lambda files: files.update({"config.json": b" " * 2_000_000}), "at most 1,048,576 are read"),
        (
            lambda files: files.update({"scheduler/scheduler_config.json": b'{"_class_name": "Mine"}'}),
            "is not one that is read",
        ),
        (lambda files: files.pop("scheduler/scheduler_config.json"), "is not one that is read"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(
    change: Callable[..., Any],
    words: str,
    publish: Callable[..., Any],
    models: ModelHub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    publish("flow")
    files = files_of(tmp_path / "saved")
    change(files)
    repo = models.contents.add("other/model", files)
    out = tmp_path / "entries" / "adopted"
    assert main(["adopt", f"hf:other/model@{repo.find('main')}", "--task", "digits", "--out", str(out)]) == 1
    err = capsys.readouterr().err
    assert words in err and len(err.strip().splitlines()) == 1
    assert not (out / "recipe.toml").exists()


def test_samples_of_another_shape_are_refused(publish: Callable[..., Any], tmp_path: Path) -> None:
    _, _, address = publish("flow")
    task = TASKS.resolve("gaussian-moons")()
    with pytest.raises(ValueError, match="makes samples of shape"):
        recipe_of(address, task)
