"""Models that were published with diffusers: saved by the library, served by a Hub, adopted as entries, sampled as the library samples them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model_hub import ModelHub

import fmbench
from fmbench.cli import main
from fmbench.flows.flow import as_draws
from fmbench.records.recipe import read
from fmbench.records.sampler import Sampler
from fmbench.registry import TASKS
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
    scheduler.set_timesteps(steps)
    x = start
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(made(x, t.expand(len(x))).sample, t, x).prev_sample
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
        assert float((ours - wanted).abs().max()) < 2e-5 * max(1.0, float(wanted.abs().max()))


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
