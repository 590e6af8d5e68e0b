"""Laws of Jacobian products and divergences: against full Jacobians, on vectors, images and attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fmbench.execution.checked import guarded_field
from fmbench.metrics.jacobian import (
    by_passes,
    exact_divergence,
    from_one_graph,
    hutchinson_divergence,
    jacobian_product,
    linearisation,
    transposed_product,
)
from fmbench.metrics.likelihood import rademacher
from fmbench.nets.unet import UNet
from fmbench.noise import generator
from fmbench.shapes import Velocity


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


MATRIX, BIAS = normal(12, 12, seed=1), normal(12, seed=2)


def curved(x: Tensor, t: Tensor) -> Tensor:
    """A field that mixes all dimensions and depends on time."""
    return torch.tanh(x.flatten(1) @ MATRIX.T + t[:, None] * BIAS).reshape(x.shape)


def full_jacobian(velocity: Velocity, x: Tensor, t: Tensor) -> Tensor:
    """(n, D, D) by reverse mode, one sample at a time."""
    rows = [
        torch.autograd.functional.jacobian(lambda z, s=s: velocity(z[None], s[None])[0].flatten(), point)
        for point, s in zip(x, t, strict=True)
    ]
    return torch.stack(rows).flatten(2)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(12,), (3, 2, 2)])
def test_products_and_trace_are_those_of_the_full_jacobian(shape: tuple[int, ...]) -> None:
    x, u, w = (normal(4, *shape, seed=k) for k in (3, 4, 5))
    t = torch.linspace(0, 1, 4, dtype=torch.float64)
    jacobian = full_jacobian(curved, x, t)
    v, forward = jacobian_product(curved, x, t, u)
    _, backward = transposed_product(curved, x, t, w)
    torch.testing.assert_close(v, curved(x, t))
    torch.testing.assert_close(forward.flatten(1), torch.einsum("nij,nj->ni", jacobian, u.flatten(1)))
    torch.testing.assert_close(backward.flatten(1), torch.einsum("nij,ni->nj", jacobian, w.flatten(1)))
    trace = jacobian.diagonal(dim1=1, dim2=2).sum(dim=1)
    for chunk in (1, 5, 32):
        torch.testing.assert_close(exact_divergence(curved, x, t, chunk)[1], trace)


def test_fused_attention_is_differentiated() -> None:
    field = lambda x, t: torch.nn.functional.scaled_dot_product_attention(x, 2 * x, x)  # noqa: E731
    x, t = normal(2, 1, 4, 8).float(), torch.zeros(2)
    with pytest.raises(NotImplementedError, match="forward AD"):
        torch.func.jvp(lambda z: field(z, t), (x,), (x,))
    trace = full_jacobian(field, x, t).diagonal(dim1=1, dim2=2).sum(dim=1)
    torch.testing.assert_close(exact_divergence(field, x, t)[1].float(), trace, rtol=1e-4, atol=1e-4)


def test_unet_and_switched_off_gradients() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        net = UNet((1, 4, 4), channels=8, multipliers=(1,), attention=(4,), groups=2)
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    x, t = normal(2, 1, 4, 4).float(), torch.full((2,), 0.3)
    trace = full_jacobian(net, x, t).diagonal(dim1=1, dim2=2).sum(dim=1).detach()
    assert trace.abs().min() > 0.01
    with torch.no_grad():
        torch.testing.assert_close(exact_divergence(net, x, t)[1].float(), trace, rtol=1e-3, atol=1e-4)
    frozen = torch.no_grad()(net.forward)
    torch.testing.assert_close(exact_divergence(frozen, x, t)[1].float(), trace, rtol=1e-3, atol=1e-4)


def test_the_variance_of_rademacher_probes_is_that_of_the_off_diagonal() -> None:
    n = 20_000
    matrix = normal(4, 4, seed=6)
    symmetric = (matrix + matrix.T) / 2
    variance = 2 * (symmetric.square().sum() - symmetric.diagonal().square().sum())
    field = lambda x, t: x @ matrix.T  # noqa: E731
    x, t = torch.zeros(n, 4, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
    probes = rademacher((2, n, 4), generator(7)).double()
    single, both = (hutchinson_divergence(field, x, t, p)[1] for p in (probes[:1], probes))
    assert single.mean() == pytest.approx(float(matrix.trace()), abs=4 * float(variance / n) ** 0.5)
    assert single.var() == pytest.approx(float(variance), rel=0.05)
    assert both.var() == pytest.approx(float(variance) / 2, rel=0.05)


def test_rademacher_probes_are_exact_on_a_diagonal() -> None:
    scale = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)
    probes = rademacher((1, 50, 3), generator(8)).double()
    trace = hutchinson_divergence(lambda x, t: scale * x, normal(50, 3), torch.zeros(50), probes)[1]
    torch.testing.assert_close(trace, torch.full_like(trace, 2.5))
    assert set(probes.flatten().tolist()) == {-1.0, 1.0}


class Doubled(torch.autograd.Function):
    """2 sin(x), whose backward pass is right and keeps no graph; ``once`` refuses a second one, else it is lost in silence."""

    generate_vmap_rule = False

    @staticmethod
    def forward(ctx: Any, x: Tensor, once: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.once = once
        return 2 * x.sin()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        if ctx.once:
            return torch.autograd.function.once_differentiable(lambda ctx, g: g * 2 * x.cos())(ctx, grad), None
        with torch.no_grad():
            return grad * 2 * x.cos(), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        (x,) = ctx.saved_tensors
        return tangent * 2 * x.cos()


def half_hidden(x: Tensor, t: Tensor) -> Tensor:
    with torch.no_grad():
        hidden = (2 * x).sin()
    return hidden + x.cos()


FIELDS = {
    "ordinary": (curved, from_one_graph),
    "attention": (
        lambda x, t: torch.nn.functional.scaled_dot_product_attention(
            *(k * x.reshape(-1, 1, 3, 4) for k in (1, 2, 3))
        ).reshape(x.shape),
        from_one_graph,
    ),
    "no gradients": (torch.no_grad()(curved), by_passes),
    "some without gradients": (half_hidden, by_passes),
    "constant": (lambda x, t: torch.ones_like(x), by_passes),
}


@pytest.mark.parametrize("name", FIELDS)
@torch.no_grad()
def test_every_field_gets_the_products_that_are_right_for_it(name: str) -> None:
    field, expected = FIELDS[name]
    x, u = normal(4, 12, seed=3), normal(4, 12, seed=4)
    t = torch.linspace(0, 1, 4, dtype=torch.float64)
    assert linearisation(field, x, t) is linearisation(field, x, t, second=True) is expected
    at = linearisation(field, x, t, second=True)(field, x, t)
    true = jacobian_product(field, x, t, u)[1]
    torch.testing.assert_close(at.v, field(x, t))
    torch.testing.assert_close(at.push(u), true)
    trace = exact_divergence(field, x, t)[1]
    torch.testing.assert_close(trace, exact_divergence(field, x, t, linearise=by_passes)[1])
    probes = rademacher((3, 4, 12), generator(9)).double()
    torch.testing.assert_close(
        hutchinson_divergence(field, x, t, probes)[1], hutchinson_divergence(field, x, t, probes, by_passes)[1]
    )


@pytest.mark.parametrize("once", [True, False])
def test_an_operation_without_second_derivative_is_pushed_forward_and_pulled_back(once: bool) -> None:
    field = lambda x, t: Doubled.apply(x, once) + x  # noqa: E731
    x, t = normal(3, 5), torch.zeros(3, dtype=torch.float64)
    assert linearisation(field, x, t, second=True) is by_passes
    assert linearisation(field, x, t) is from_one_graph
    trace = (1 + 2 * x.cos()).sum(dim=1)
    torch.testing.assert_close(exact_divergence(field, x, t)[1], trace)


def test_an_operation_without_forward_mode_is_compared_with_differences() -> None:
    class Backward(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad * ctx.saved_tensors[0].cos()

    field = lambda x, t: Backward.apply(x)  # noqa: E731
    x, t = normal(3, 5), torch.zeros(3, dtype=torch.float64)
    with pytest.raises(RuntimeError):
        jacobian_product(field, x, t, x)
    assert linearisation(field, x, t, second=True) is from_one_graph
    torch.testing.assert_close(exact_divergence(field, x, t)[1], x.cos().sum(dim=1))
    halved = lambda x, t: Backward.apply(x) + Backward.apply(x.detach())  # noqa: E731
    assert linearisation(halved, x, t, second=True) is by_passes


@pytest.mark.parametrize("divergence", [exact_divergence, lambda f, x, t: hutchinson_divergence(f, x, t, x[None])])
def test_a_field_known_to_have_no_derivative_is_refused(divergence: Any) -> None:
    field = guarded_field(lambda x, t: (2 * x).detach(), derivatives=False)
    with pytest.raises(ValueError, match="switches gradients off inside"), torch.no_grad():
        divergence(field, normal(3, 5), torch.zeros(3, dtype=torch.float64))
