"""Loading by one string, the harness's sampling, and velocity fields from elsewhere."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fmbench.noise import BLOCK
from fmbench.records.recipe import read
from fmbench.records.sampler import Sampler
from fmbench.solvers.base import uniform_grid
from fmbench.solvers.euler import Euler
from fmbench.storage.files import sha256
from fmbench.zoo import catalogue
from fmbench.zoo.foreign import wrap
from fmbench.zoo.model import Model, generate
from fmbench.zoo.resolve import load

OWN = """
import torch
from torch import nn
from fmbench.methods import VelocityMethod

class Halve(VelocityMethod):
    def __init__(self, net, rate: float = 1.0):
        super().__init__(net)
        self.rate = rate

    @classmethod
    def build_net(cls, task, net, conditional):
        return nn.Identity()

    def velocity(self, x, t, labels=None, guidance=1.0):
        self.net(x)
        return -self.rate * x

    def loss(self, batch, generator):
        raise ValueError("nothing to train")

class Learned(VelocityMethod):
    def loss(self, batch, generator):
        return self.net(batch.x0, torch.zeros(len(batch.x0))).square().mean()

NOT_A_METHOD = 3
"""


@pytest.fixture
def entry(zoo: Path, tmp_path: Path) -> Path:
    """A copy of the tiny entry, to be damaged."""
    return Path(shutil.copytree(zoo / "gaussian-8gaussians" / "tiny", tmp_path / "copy"))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    return str(tmp_path / "own.py")


def test_by_name_and_by_folder(zoo: Path, entry: Path) -> None:
    named, found = load("gaussian-8gaussians/tiny"), load(str(entry))
    assert named.name == "gaussian-8gaussians/tiny"
    assert found.name == "gaussian-8gaussians/copy"
    assert torch.equal(named.sample(20), found.sample(20))
    assert named.task.name == "gaussian-8gaussians"
    assert named.identity["weights_sha256"] == sha256((entry / "model.safetensors").read_bytes())
    assert named.recipe == read(entry / "recipe.toml")
    assert not named.method.training


def test_by_file(own: str) -> None:
    model = load(f"{own}:Halve", task="gaussian-8gaussians")
    assert model.name == "gaussian-8gaussians/halve"
    assert model.parameters == 0
    noise = model.noise(0, 10, 0)
    assert torch.allclose(model.sample(10, steps=1), 0 * noise)
    assert torch.allclose(model.sample(10, steps=2), noise / 4)
    assert model.identity["code_sha256"] is not None


@pytest.mark.slow
def test_by_file_with_trained_weights(own: str, tiny_recipe, tmp_path: Path) -> None:
    from fmbench.training.run import train

    spec = f"{own}:Learned"
    with pytest.raises(
        FileNotFoundError, match="has no weights for gaussian-8gaussians; make them with `fmbench train --method"
    ):
        load(spec, task="gaussian-8gaussians")
    with pytest.raises(ValueError, match=r"which task is .* for"):
        load(spec)
    train(tiny_recipe("gaussian-8gaussians", spec), tmp_path / "entries" / "gaussian-8gaussians" / "learned")
    assert torch.equal(load(spec).sample(5), load(spec, task="gaussian-8gaussians").sample(5))
    train(tiny_recipe("digits", spec, conditional=True), tmp_path / "entries" / "digits" / "learned-cond")
    assert load(spec, task="digits").conditional
    train(tiny_recipe("digits", spec), tmp_path / "entries" / "digits" / "learned")
    with pytest.raises(ValueError, match=r"which entry of .*Learned\? trained here: .*learned, .*learned-cond; move"):
        load(spec, task="digits")
    with pytest.raises(
        ValueError, match=r"runs code from .*own\.py:Learned; say so: give .*own\.py:Learned as the model"
    ):
        load(str(tmp_path / "entries" / "gaussian-8gaussians" / "learned"))


@pytest.mark.parametrize("name", ["Missing", "NOT_A_METHOD"])
def test_files_without_the_class_say_what_they_have(name: str, own: str) -> None:
    with pytest.raises(ValueError, match=f"has no class {name} derived from .*; it has: Halve, Learned"):
        load(f"{own}:{name}", task="gaussian-8gaussians")
    with pytest.raises(FileNotFoundError, match=r"no file nowhere\.py"):
        load(f"nowhere.py:{name}", task="gaussian-8gaussians")


def test_corrupted_weights_name_both_hashes(entry: Path) -> None:
    path = entry / "model.safetensors"
    data = bytearray(path.read_bytes())
    expected = sha256(bytes(data))
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"SHA-256 expected {expected}, found {sha256(bytes(data))}"):
        load(str(entry))


def test_truncated_and_missing_weights(entry: Path) -> None:
    path = entry / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:100])
    with pytest.raises(ValueError, match=rf"{path} has 100 bytes, and its recipe pins {len(data)}"):
        load(str(entry))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"weight file model\.safetensors is missing"):
        load(str(entry))
    dataclasses.replace(read(entry / "recipe.toml"), weights=None).save(entry / "recipe.toml")
    with pytest.raises(ValueError, match="has no weights yet; make them with `fmbench train"):
        load(str(entry))


def test_weights_are_never_read_outside_the_folder(entry: Path) -> None:
    recipe = read(entry / "recipe.toml")
    assert recipe.weights is not None
    shutil.move(entry / "model.safetensors", entry.parent / "model.safetensors")
    dataclasses.replace(recipe, weights=dataclasses.replace(recipe.weights, file="../model.safetensors")).save(
        entry / "recipe.toml"
    )
    with pytest.raises(
        ValueError, match=r"recipe.toml \[weights\]: file: '../model.safetensors' cannot name a weight file"
    ):
        load(str(entry))


def test_weights_of_another_network_are_one_clear_line(entry: Path) -> None:
    text = (entry / "recipe.toml").read_text()
    (entry / "recipe.toml").write_text(text.replace("width = 16", "width = 8"))
    with pytest.raises(ValueError, match="copy") as caught:
        load(str(entry))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("net.layers.0.bias"), "net.layers.0.bias is missing"),
        (lambda state: state.update(more=torch.ones(1)), "it has no 'more'"),
        (lambda state: state.update({"net.layers.0.bias": torch.zeros(16).half()}), "is stored as F16, and the recipe makes it F32"),
        (lambda state: state.update({"net.layers.0.bias": torch.zeros(16).long()}), "is stored as I64"),
        (lambda state: state.update({"net.layers.0.bias": torch.zeros(4, 4)}), r"has shape \(4, 4\), not \(16,\)"),
        (lambda state: state["net.layers.0.bias"].fill_(torch.nan), "net.layers.0.bias is not finite"),
    ],
    ids=range(6),
)  # fmt: skip
def test_weights_that_the_recipe_does_not_make_name_the_file(change, words: str, entry: Path) -> None:
    path, recipe = entry / "model.safetensors", read(entry / "recipe.toml")
    state = load_file(path)
    change(state)
    save_file(state, path)
    assert recipe.weights is not None
    data = path.read_bytes()
    pinned = dataclasses.replace(recipe.weights, sha256=sha256(data), bytes=len(data))
    dataclasses.replace(recipe, weights=pinned).save(entry / "recipe.toml")
    with pytest.raises(ValueError, match=f"^{path}: .*{words}") as caught:
        load(str(entry))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('task = "gaussian-8gaussians"', 'task = "gaussian-9"', "unknown task 'gaussian-9'; nearest"),
        ('name = "cfm"', 'name = "cmf"', "unknown method 'cmf'"),
        ('name = "mlp"', 'name = "mpl"', "unknown net 'mpl'"),
        ("parameters = ", "parameters = 1", "parameters is 1.*, and there are"),
        ('name = "cfm"', 'name = "oracle"', "has no parameters, and the recipe pins|unknown key|do not fit"),
    ],
)
def test_recipes_that_name_what_is_not_there_name_the_file(old: str, new: str, words: str, entry: Path) -> None:
    path = entry / "recipe.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=words) as caught:
        load(str(entry))
    assert str(entry) in str(caught.value) and "\n" not in str(caught.value)


def test_ambiguous_names_are_errors(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(zoo / "gaussian-8gaussians" / "tiny", tmp_path / "gaussian-8gaussians" / "tiny")
    with pytest.raises(
        ValueError,
        match=r"'gaussian-8gaussians/tiny' is both a zoo entry and a folder here; write \./gaussian-8gaussians/tiny",
    ):
        load("gaussian-8gaussians/tiny")
    assert load("./gaussian-8gaussians/tiny").sample(2).shape == (2, 2)
    monkeypatch.chdir(zoo)
    assert load("gaussian-8gaussians/tiny").sample(2).shape == (2, 2)  # the same folder is no conflict


def test_unknown_names_list_the_nearest(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="unknown entry 'gaussian-8gaussians/tinny'; nearest: gaussian-8gaussians/tiny"
    ):
        load("gaussian-8gaussians/tinny")
    with pytest.raises(FileNotFoundError, match=r"holds no recipe\.toml"):
        load(str(tmp_path))
    assert catalogue.list_entries() == ["digits/tiny-conditional", "gaussian-8gaussians/tiny"]
    assert catalogue.list_entries(task="digits") == ["digits/tiny-conditional"]
    assert catalogue.list_entries(division="closed") == []


@pytest.fixture
def model(zoo: Path) -> Model:
    return load("gaussian-8gaussians/tiny")


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun", "rk4"])
def test_samples_do_not_depend_on_the_batch_size(solver: str, model: Model) -> None:
    reference = model.sample(600, seed=3, solver=solver, steps=4)
    for batch_size in (1, 100, 1000):
        few = 600 if batch_size > 1 else 40
        assert torch.allclose(
            model.sample(few, seed=3, solver=solver, steps=4, batch_size=batch_size), reference[:few], atol=1e-5
        )


def test_samples_of_a_noise_block_are_identical_whatever_n(model: Model) -> None:
    reference = model.sample(2 * BLOCK, seed=3, steps=4)
    assert torch.equal(model.sample(BLOCK, seed=3, steps=4), reference[:BLOCK])
    assert not torch.allclose(model.sample(BLOCK, seed=4, steps=4), reference[:BLOCK])
    assert torch.equal(model.noise(100, 300, 3), model.noise(0, 600, 3)[100:300])


def test_adaptive_samples_are_identical_for_any_batch_size(model: Model) -> None:
    reference = model.sample(300, solver="dopri5", batch_size=256)
    for batch_size in (1, 100, 1000):
        assert torch.equal(model.sample(300, solver="dopri5", batch_size=batch_size), reference)


@pytest.mark.parametrize("n", [1, 100, 256, 300])
def test_adaptive_samples_do_not_depend_on_how_many_there_are(n: int, model: Model) -> None:
    """The steps are chosen for a whole block, however much of it is asked for; the evaluations are those of what was."""
    sampler = Sampler("dopri5")
    whole = model.rows(0, 512, 3, sampler, 256)
    part = model.rows(0, n, 3, sampler, 256)
    assert torch.equal(part.samples, whole.samples[:n])
    middle = model.rows(100, 300, 3, sampler, 64)
    assert torch.equal(middle.samples, whole.samples[100:300])
    first, second = (model.rows(start, start + 256, 3, sampler, 256).evaluations.network // 256 for start in (0, 256))
    assert part.evaluations.network == min(n, 256) * first + max(n - 256, 0) * second
    assert middle.evaluations.network == 156 * first + 44 * second


def test_adaptive_samples_of_given_labels_are_those_of_the_whole_block(zoo: Path) -> None:
    model = load("digits/tiny-conditional")
    labels = torch.full((300,), 7)
    own = model.labels(0, 300, 0)
    assert own is not None
    found = model.sample(300, solver="dopri5", labels=labels)
    assert torch.equal(found[:256], model.sample(256, solver="dopri5", labels=labels[:256]))
    assert torch.equal(model.sample(300, solver="dopri5", labels=own), model.sample(300, solver="dopri5"))
    assert not torch.allclose(found, model.sample(300, solver="dopri5"), atol=1e-3)


def test_conditional_models_hear_labels_and_guidance(zoo: Path) -> None:
    model = load("digits/tiny-conditional")
    assert model.conditional
    labels = model.labels(0, 300, 0)
    assert labels is not None
    assert labels.unique().tolist() == list(range(10))
    reference = model.sample(300, steps=2)
    assert reference.shape == (300, 1, 8, 8)
    assert torch.equal(model.sample(300, steps=2, labels=labels), reference)
    assert not torch.allclose(model.sample(300, steps=2, labels=(labels + 1) % 10), reference, atol=1e-4)
    assert not torch.allclose(model.sample(300, steps=2, guidance=3.0), reference, atol=1e-4)
    assert torch.allclose(
        model.sample(300, steps=2, guidance=3.0, batch_size=37), model.sample(300, steps=2, guidance=3.0), atol=1e-5
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"steps": 0}, "euler needs steps, a whole number of at least 1"),
        ({"solver": "eular"}, "unknown solver 'eular'; nearest: euler"),
        ({"batch_size": 0}, "batch size must be at least 1, got 0"),
        ({"guidance": 2.0}, "needs a class-conditional entry"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "3 labels for 5 samples"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_impossible_requests_are_named(settings: dict, words: str, model: Model) -> None:
    arguments = {"n": 5, "steps": 1, **settings}
    with pytest.raises(ValueError, match=words):
        model.sample(arguments.pop("n"), **arguments)


def test_labels_outside_the_classes_are_named(zoo: Path) -> None:
    """Index 10 is the network's "no label": asked for as a class it would silently be unconditional."""
    with pytest.raises(ValueError, match="10"):
        load("digits/tiny-conditional").sample(2, steps=1, labels=torch.tensor([3, 10]))


def test_one_step_maps_default_to_one_step(gaussian_flow) -> None:
    from fmbench.methods.distill import Distill

    model = Model("gaussian-1d/distilled", gaussian_flow.task, Distill(gaussian_flow.straight))
    assert torch.allclose(model.sample(10), gaussian_flow.endpoint(model.noise(0, 10, 0)), atol=1e-6)
    with pytest.raises(ValueError, match="this model samples with euler and 1 step only"):
        model.sample(10, steps=4)


def test_a_torchcfm_network_is_wrapped_in_a_few_lines(seeded) -> None:
    models = pytest.importorskip("torchcfm.models.models")
    net = seeded(lambda: models.MLP(dim=2, w=16, time_varying=True))
    model = wrap(net, "gaussian-8gaussians", "theirs", lambda m, x, t: m(torch.cat([x, t[:, None]], dim=1)))
    assert model.name == "gaussian-8gaussians/theirs"
    assert model.parameters == sum(p.numel() for p in net.parameters())
    x = model.noise(0, 20, 5)
    with torch.no_grad():
        for k in range(4):
            x = x + 0.25 * net(torch.cat([x, torch.full((20, 1), k / 4)], dim=1))
    assert torch.allclose(model.sample(20, seed=5, steps=4), x, atol=1e-5)
    made = generate(model.method, model.noise(0, 20, 5), Sampler("heun", 3))
    assert made.evaluations.network == 20 * 6
    with pytest.raises(ValueError, match="already trained"):
        model.method.loss(None, torch.Generator())


def test_a_field_with_the_data_at_time_zero_is_turned_round(gaussian_flow) -> None:
    reversed_net = torch.nn.Module()
    reversed_net.forward = lambda x, t: -gaussian_flow.velocity(x, 1 - t)  # type: ignore[method-assign]
    model = wrap(reversed_net, "gaussian-8gaussians", "reversed", lambda m, x, t: -m(x, 1 - t))
    x = torch.randn((5, 1), generator=torch.Generator().manual_seed(0))
    turned = model.method.sample(x, Sampler("euler", 7))
    assert torch.allclose(turned, Euler().solve(gaussian_flow.velocity, x, uniform_grid(7)), atol=1e-6)


def test_wrapped_weights_identify_the_model(seeded) -> None:
    nets = [seeded(lambda: torch.nn.Linear(2, 2), seed) for seed in (0, 0, 1)]
    hashes = [wrap(net, "gaussian-8gaussians", "x").identity["weights_sha256"] for net in nets]
    assert hashes[0] == hashes[1] != hashes[2]
