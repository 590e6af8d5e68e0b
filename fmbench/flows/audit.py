"""Audit of a sampler before it is measured: checks that its expensive operations go through the counted networks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from fmbench.execution.operators import OperatorMode
from fmbench.flows.evaluations import Evaluations

SHARE = 0.05
"""Share of the floating-point operations that may be spent outside the networks: solvers add and scale."""


@dataclass
class Audit:
    """The findings of one sampling pass.

    Attributes:
        inside, outside: floating-point operations in counted calls and beside them, matrix products and convolutions only, 2 per multiply-add.
        touched: ``operator, parameter`` of operations that used a parameter outside every counted call, each once.
    """

    inside: int = 0
    outside: int = 0
    touched: list[str] = field(default_factory=list)

    def require(self, declared: bool = False) -> None:
        """Raise ValueError in one line when evaluations were missed.

        ``declared`` allows operations outside networks, as in a closed form; parameters must still be used inside counted calls only.
        """
        if self.touched:
            raise ValueError(
                f"{self.touched[0]} outside every network whose evaluations are counted; name the module that owns it in networks()"
            )
        total = self.inside + self.outside
        if not declared and self.inside and self.outside > SHARE * total:
            raise ValueError(
                f"{100 * self.outside / total:.0f} % of the operations are outside the networks whose evaluations are counted, "
                f"at most {100 * SHARE:.0f} % may be; name all networks in networks()"
            )


class _Watch(OperatorMode):
    """Sees every operator; ``owners`` names parameters by the address of their memory."""

    def __init__(self, count: Evaluations, owners: dict[int, str], audit: Audit) -> None:
        super().__init__()
        self.count, self.owners, self.audit = count, owners, audit

    def __torch_dispatch__(self, func: Any, types: Iterable[type], args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        known = flop_registry.get(func._overloadpacket)
        if known is None:
            parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        output = func(*args, **kwargs)
        inside = self.count.inside > 0
        if not inside and not func.is_view:
            self._look(func, (args, kwargs))
        if known is not None:
            flops = int(known(*args, **kwargs, out_val=output))
            if inside:
                self.audit.inside += flops
            else:
                self.audit.outside += flops
        return output

    def _look(self, func: Any, given: Any) -> None:
        for value in tree_leaves(given):
            if isinstance(value, Tensor) and value.numel() and (owner := self.owners.get(_address(value))):
                line = f"{func._overloadpacket.__name__} uses {owner}"
                if line not in self.audit.touched:
                    self.audit.touched.append(line)


def _address(tensor: Tensor) -> int:
    """The memory address of a tensor; 0 for one without memory of its own."""
    try:
        return tensor.untyped_storage().data_ptr()
    except RuntimeError:
        return 0


@contextmanager
def auditing(count: Evaluations, flow: nn.Module) -> Iterator[Audit]:
    """Context that watches every operator of this thread; ``count`` is that of :func:`~fmbench.flows.evaluations.counting` around it."""
    audit = Audit()
    owners = {_address(p): f"the parameter {name}" for name, p in flow.named_parameters() if p.numel()}
    owners.pop(0, None)
    with _Watch(count, owners, audit):
        yield audit
