"""A loss trains the same whether its batch is in one piece, in parts, or shared by two processes; what cannot be cut is refused first."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.autograd.forward_ad as forward_mode
from own_methods import MeanFlowLike, TwoTimes
from safetensors.torch import load_file
from torch import Tensor, nn

from fmbench.records.recipe import Recipe, read
from fmbench.training.piecewise import Cut
from fmbench.training.processes import join, launch
from fmbench.training.run import train
from fmbench.training.sharding import in_slices
from fmbench.zoo.entry import WEIGHTS

MakeRecipe = Callable[..., Recipe]
TASK = "gaussian-8gaussians"
FILE = Path(__file__).with_name("own_methods.py")
METHODS = ("cfm", "MeanFlowLike", "Twofold", "Dropped", "TwoNetworks", "Doubled", "OldNetwork")


def recipe_of(name: str, tiny_recipe: MakeRecipe) -> Recipe:
    """33 rows do not divide evenly; gradient descent, unlike Adam, does not turn the rounding of a small gradient into a step."""
    few = {"train.steps": 5, "train.batch_size": 33, "train.weight_decay": 0.1, "train.lr": 0.01, "train.ema": 0.5}
    labelled = name in ("Doubled", "OldNetwork")
    task = "digits" if labelled else TASK
    method = name if name == "cfm" else f"{FILE}:{name}"
    settings = {**few, "train.optimiser": "sgd", "train.storage": "float32"}
    return tiny_recipe(task, method, **({"conditional": True} if labelled else {}), **settings)


def losses_of(recipe: Recipe, out: Path, accumulate: int = 1) -> list[float]:
    losses: list[float] = []
    train(recipe, out, accumulate=accumulate, report=lambda _, loss: losses.append(loss))
    return losses


def every_method(folder: Path, report: Callable[..., None]) -> None:
    """In each of two processes."""
    found = {name: losses_of(read(folder / f"{name}.toml"), folder / name.lower(), 2) for name in METHODS}
    alone = losses_of(read(folder / "MeanFlowLike.toml"), folder / "once")
    group = join("cpu")
    assert group is not None
    if group.rank == 0:
        (folder / "losses.json").write_text(json.dumps({**found, "once": alone}))
    report(group.rank)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: MakeRecipe) -> Path:
    pytest.importorskip("accelerate")
    folder = tmp_path_factory.mktemp("two")
    for name in METHODS:
        recipe_of(name, tiny_recipe).save(folder / f"{name}.toml")
    launch(partial(every_method, folder), 2, "cpu")
    return folder


def assert_same_weights(one: Path, other: Path) -> None:
    a, b = load_file(one / WEIGHTS), load_file(other / WEIGHTS)
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, atol=1e-6, rtol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_one_piece_parts_and_two_processes_train_the_same(
    name: str, two: Path, tmp_path: Path, tiny_recipe: MakeRecipe
) -> None:
    recipe = recipe_of(name, tiny_recipe)
    whole = losses_of(recipe, tmp_path / "whole")
    assert len(set(whole)) == 5
    for parts in (3, 33):
        assert losses_of(recipe, tmp_path / f"parts{parts}", parts) == pytest.approx(whole, rel=1e-6)
        assert_same_weights(tmp_path / "whole", tmp_path / f"parts{parts}")
    answers = json.loads((two / "losses.json").read_text())
    for answer, folder in ((name, name.lower()), *((("once", "once"),) if name == "MeanFlowLike" else ())):
        assert answers[answer] == pytest.approx(whole, rel=1e-6)
        assert_same_weights(tmp_path / "whole", two / folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("OfStatistics", "Statistics changes its buffers while it trains"),
        ("OfCentred", "Centred mixes the rows of a batch"),
        ("OfNoisy", "Noisy draws random numbers with randn"),
        ("OfTotal", "Total returns something that has not the rows of its input"),
        ("Aside", "the loss of Aside never called Statistics"),
    ],
)
def test_what_cannot_be_cut_is_refused_before_the_first_step(
    name: str, words: str, tmp_path: Path, tiny_recipe: MakeRecipe
) -> None:
    recipe = tiny_recipe(TASK, f"{FILE}:{name}", **{"train.steps": 1})
    said = rf"{words}.*, so its batch cannot be cut; train with one process and accumulate 1$"
    with pytest.raises(ValueError, match=said) as caught:
        train(recipe, tmp_path / "cut", accumulate=2, checkpoint_seconds=0.0)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cut").iterdir()) == []
    train(recipe, tmp_path / "whole")


@pytest.mark.slow
def test_processes_refuse_it_too(tmp_path: Path, tiny_recipe: MakeRecipe) -> None:
    pytest.importorskip("accelerate")
    recipe = tiny_recipe(TASK, f"{FILE}:OfCentred", **{"train.steps": 1})
    with pytest.raises(ValueError, match="Centred mixes the rows of a batch"):
        train(recipe, tmp_path / "cut", processes=2)


X, T, R, V = (
    torch.randn(7, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
    torch.linspace(0.1, 0.9, 7, dtype=torch.float64),
    torch.linspace(0.0, 0.3, 7, dtype=torch.float64),
    torch.randn(7, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64),
)


def forward_levels(net: nn.Module) -> Tensor:
    with forward_mode.dual_level():
        y, dy = forward_mode.unpack_dual(net(forward_mode.make_dual(X, V), T, r=R))
        return (y.square() + dy**3).sum()


def penalty(net: nn.Module) -> Tensor:
    x = X.clone().requires_grad_()
    return torch.autograd.grad(net(x, T).square().sum(), x, create_graph=True)[0].square().sum()


def by_parameters(net: nn.Module) -> Tensor:
    own = {name: p for name, p in net.named_parameters() if "idle" not in name}
    ones = {name: torch.ones_like(p) for name, p in own.items()}
    call = torch.func.functional_call
    return torch.func.jvp(lambda p: call(net, p, (X, T)), (own,), (ones,))[1].square().sum()


def energy(net: nn.Module, x: Tensor) -> Tensor:
    return (net(x, T) ** 3).sum()


TRANSFORMS: dict[str, Callable[[nn.Module], Tensor]] = {
    "backward": lambda net: net(X, T, r=R).exp().prod(1).logsumexp(0),
    "twice": lambda net: net(torch.cat([net(X, T), X]), torch.cat([T, R])).square().sum(),
    "jvp": lambda net: (torch.func.jvp(lambda x, r: net(x, T, r=r), (X, R), (V, T))[1] ** 3).sum(),
    "vjp": lambda net: torch.func.vjp(lambda x: net(x, T), X)[1](V)[0].square().sum(),
    "gradient penalty": penalty,
    "grad": lambda net: torch.func.grad(lambda x: energy(net, x))(X).square().sum(),
    "jvp of grad": lambda net: torch.func.jvp(torch.func.grad(lambda x: energy(net, x)), (X,), (V,))[1].square().sum(),
    "jvp of jvp": lambda net: (
        torch.func.jvp(lambda x: torch.func.jvp(lambda x: net(x, T), (x,), (V,))[1], (X,), (V,))[1].square().sum()
    ),
    "jvp by parameters": by_parameters,
    "two backward passes": lambda net: (
        torch.autograd.functional.jvp(lambda x: net(x, T), X, V, create_graph=True)[1].square().sum()
    ),
    "forward levels": forward_levels,
    "vmap": lambda net: torch.func.vmap(lambda s: net(X * s, T), randomness="same")(torch.arange(3.0)).square().sum(),
    "jacrev": lambda net: torch.func.jacrev(lambda x: net(x, T).sum(0))(X).square().sum(),
    "jacfwd": lambda net: torch.func.jacfwd(lambda x: net(x, T).sum(0), randomness="same")(X).square().sum(),
}


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_derivative_of_a_cut_network_is_that_of_the_network(name: str, dropout: float, parts: int) -> None:
    """Of any order and in any mode, parameters that nothing uses have no gradient, and as many random numbers are drawn."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = MeanFlowLike(TwoTimes(3, dropout=dropout)).double()
        found = []
        for learner in (method, in_slices(method, Cut(parts))[0]):
            torch.manual_seed(3)
            method.zero_grad()
            loss = TRANSFORMS[name](learner.net)
            after = torch.rand(1)
            loss.backward()
            found.append((loss.detach(), after, [p.grad for p in method.parameters()]))
    (loss, after, gradients), (cut_loss, cut_after, cut_gradients) = found
    torch.testing.assert_close(cut_loss, loss, atol=1e-12, rtol=1e-12)
    assert torch.equal(after, cut_after)
    assert sum(g is None for g in gradients) >= 2
    for gradient, cut_gradient in zip(gradients, cut_gradients, strict=True):
        assert (gradient is None) == (cut_gradient is None)
        torch.testing.assert_close(cut_gradient, gradient, atol=1e-10, rtol=1e-10)


def test_the_method_itself_stays_as_it_is() -> None:
    """What a loss sees is another object with the same parameters; attributes of the network can be read through."""
    method = MeanFlowLike(TwoTimes(3))
    names, forward = list(method.state_dict()), method.net.forward
    learner, networks = in_slices(method, Cut(2))
    assert list(method.state_dict()) == names
    assert method.net.forward == forward and method.net is networks[0].net
    assert learner.net.size == 3 and learner.net.first is method.net.first
    assert {id(p) for p in learner.parameters()} == {id(p) for p in method.parameters()}
    learner.eval()
    assert not method.net.training
