"""Evaluations are counted, whatever way a network is called."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fmbench.flows.evaluations import Evaluations, counted_as, counting, require_counted

ROWS = 5


class Net(nn.Module):
    """Counts its own rows, which is what the harness must find."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layer(x) * t[:, None]


def point() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.randn((ROWS, 2), generator=random), torch.rand(ROWS, generator=random)


def of(net: nn.Module, call, **more: nn.Module) -> dict[str, int]:
    """The rows that ``call(net, x, t)`` took, by purpose, zeros left out."""
    with counting({"network": net, **more}, 2) as count:
        call(net, *point())
    assert "forward" not in vars(net)
    return {purpose: rows for purpose, rows in count.rows.items() if rows}


WAYS = {
    "a call": (lambda m, x, t: m(x, t), ROWS),
    "keywords": (lambda m, x, t: m(t=t, x=x), ROWS),
    "time first": (lambda m, x, t: m(t=t, x=x), ROWS),
    "forward itself": (lambda m, x, t: m.forward(x, t), ROWS),
    "two calls": (lambda m, x, t: 2 * m(x, t) - m(0 * x, t), 2 * ROWS),
    "a doubled batch": (lambda m, x, t: m(torch.cat([x, x]), torch.cat([t, t]))[:ROWS], 2 * ROWS),
    "functional": (lambda m, x, t: torch.func.functional_call(m, dict(m.named_parameters()), (x, t)), ROWS),
    "jvp": (lambda m, x, t: torch.func.jvp(lambda y: m(y, t), (x,), (x,)), ROWS),
    "vmap": (lambda m, x, t: torch.func.vmap(lambda y, s: m(y[None], s[None])[0])(x, t), ROWS),
    "nested vmap": (
        lambda m, x, t: torch.func.vmap(lambda z: torch.func.vmap(lambda y, s: m((y + z)[None], s[None])[0])(x, t))(
            x[:3]
        ),
        3 * ROWS,
    ),
    "autocast": (lambda m, x, t: torch.autocast("cpu", torch.bfloat16)(m)(x, t), ROWS),
    "no gradients": (lambda m, x, t: torch.no_grad()(m)(x, t), ROWS),
}


@pytest.mark.parametrize("way", WAYS)
def test_rows_are_counted_however_the_network_is_called(way: str) -> None:
    call, expected = WAYS[way]
    assert of(Net(), call) == {"network": expected}


@pytest.mark.parametrize(
    "make",
    [
        lambda net: torch.jit.script(net),
        lambda net: torch.jit.trace(net, point()),
        lambda net: torch.compile(net, backend="eager"),
    ],
    ids=["scripted", "traced", "compiled"],
)
def test_what_torch_makes_of_a_network_is_counted(make) -> None:
    net = make(Net())
    with counting({"network": net}, 2) as count:
        first = net(*point())
        net.forward(*point())
    assert count.rows["network"] == 2 * ROWS
    assert torch.equal(net(*point()), first)


def test_backward_passes_are_counted_apart() -> None:
    def pull(m, x, t):
        _, back = torch.func.vjp(lambda y: m(y, t), x)
        back(x)

    def graph(m, x, t):
        m(x.requires_grad_(), t).sum().backward()

    def jacobian(m, x, t):
        torch.func.vmap(torch.func.jacrev(lambda y, s: m(y[None], s[None])[0]))(x, t)

    for call, gradients in ((pull, ROWS), (graph, ROWS), (jacobian, 2 * ROWS)):
        assert of(Net(), call) == {"network": ROWS, "gradient": gradients}


def test_purposes_are_kept_apart_and_only_the_outermost_call_counts() -> None:
    class Outer(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.inner(x, t)

    inner = Net()
    outer = Outer(inner)
    assert of(outer, lambda m, x, t: (m(x, t), inner(x, t)), head=inner) == {"network": ROWS, "head": ROWS}

    def guided(m, x, t):
        with counted_as("guidance"):
            m(x, t)
        return m(x, t)

    assert of(Net(), guided) == {"network": ROWS, "guidance": ROWS}


def test_members_of_lists_and_tables_are_counted() -> None:
    nets = nn.ModuleList([Net(), Net()])
    assert of(nets, lambda m, x, t: m[1](m[0](x, t), t)) == {"network": 2 * ROWS}
    table = nn.ModuleDict({"a": nn.ModuleList([Net()])})
    assert of(table, lambda m, x, t: m["a"][0](x, t)) == {"network": ROWS}


def test_a_forward_that_was_replaced_before_comes_back() -> None:
    net = Net()
    own = lambda x, t: x  # noqa: E731
    net.forward = own  # type: ignore[method-assign]
    with pytest.raises(KeyError), counting({"network": net}, 2):
        net({}["nothing"])
    assert vars(net)["forward"] is own
    with counting({"network": net}, 2) as count:
        net(*point())
    assert vars(net)["forward"] is own
    assert count.rows["network"] == ROWS


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(ValueError, match="DataParallel"), counting({"network": nn.DataParallel(Net())}, 2):
        pass
    net = nn.Identity()
    with pytest.raises(ValueError, match="called without a tensor"), counting({"network": net}, 2):
        net(3)
    with pytest.raises(ValueError, match="no evaluation of the model's 12 parameters"):
        require_counted(Evaluations(), 12)
    require_counted(Evaluations(), 0)
