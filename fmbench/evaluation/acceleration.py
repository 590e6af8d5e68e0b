"""How a network is computed, apart from what it computes: precision, memory layout, compilation. Explicit, and off by default."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fmbench.flows.flow import Flow

DTYPES = ("float32", "bfloat16")
COMPILE = ("none", "default", "max-autotune-no-cudagraphs", "reduce-overhead")
GRAPHS = ("reduce-overhead",)
"""Modes that replay the network as a CUDA graph."""


@dataclass(frozen=True)
class Acceleration:
    """Options that trade nothing or a stated tolerance for speed.

    Attributes:
        dtype: "bfloat16" runs the network under autocast: weights, state of the solver and output stay float32.
        channels_last: whether images go through the network channels last (NHWC); ignored for vectors.
        compile: mode of torch.compile, "none" for eager; "reduce-overhead" replays CUDA graphs, which need a GPU.

    Raises ValueError for an unknown dtype or mode.
    """

    dtype: str = "float32"
    channels_last: bool = False
    compile: str = "none"

    def __post_init__(self) -> None:
        for what, value, allowed in (("dtype", self.dtype, DTYPES), ("compile mode", self.compile, COMPILE)):
            if value not in allowed:
                raise ValueError(f"unknown {what} {value!r}; allowed: {', '.join(allowed)}")

    @property
    def graphs(self) -> bool:
        """Whether the network is replayed as a CUDA graph."""
        return self.compile in GRAPHS

    def require(self, device: str) -> None:
        """Raise ValueError in one line for CUDA graphs on a device, ``cpu`` or ``cuda:N``, that has none."""
        if self.graphs and device == "cpu":
            plain = ", ".join(mode for mode in COMPILE if mode not in GRAPHS)
            raise ValueError(
                f"compile mode {self.compile!r} replays CUDA graphs and the device is the CPU; take a GPU, or one of {plain}"
            )


class Forward:
    """The forward of a network under an :class:`Acceleration`, in the place of the network's own.

    It sits below ``net(...)``, so that hooks (which count evaluations) run once per call and are never traced, and outside the
    modules, so that the state dict keeps its names. A deep copy of the network (the moving average) gets a copy bound to itself.
    """

    def __init__(self, net: nn.Module, options: Acceleration) -> None:
        self.net, self.options = net, options
        self.run: Callable[..., Tensor] = type(net).forward
        if options.compile != "none":
            import torch

            self.run = torch.compile(self.run, mode=options.compile)

    def __call__(self, x: Tensor, *args: Tensor | None, **kwargs: Tensor | None) -> Tensor:
        """The network's output, in the dtype of ``x``."""
        import torch

        # Layers hand the layout on. The weights keep theirs: moments that a fused optimiser made before would be read in the wrong
        # order. A clone, because one channel counts as channels last whatever its strides.
        if self.options.channels_last and x.ndim == 4:
            x = x.clone(memory_format=torch.channels_last)
        if self.options.dtype == "float32":
            return self._own(self.run(self.net, x, *args, **kwargs))
        with torch.autocast(x.device.type, torch.bfloat16):
            return self._own(self.run(self.net, x, *args, **kwargs)).to(x.dtype)

    def _own(self, output: Tensor) -> Tensor:
        """The output in memory of its own: the next replay of a graph writes over it, and a solver of several stages still needs it."""
        return output.clone() if self.options.graphs else output


def accelerate_net(method: Flow, options: Acceleration) -> None:
    """Compute ``method.net`` under ``options`` from now on, in place; ``Acceleration()`` puts the plain network back.

    Samples stay those of the plain network up to rounding: about 1e-5 for ``channels_last`` and ``compile``, 1e-2 of the network's
    output for bfloat16. Evaluations are counted and weights are saved as before. Compilation happens at the first call and takes a
    minute or so; torch falls back to eager, with a warning, beyond eight variants (labels or none, gradients or none, new batch sizes)
    of one kind of network. Jacobian metrics differentiate through the forward in ways torch.compile does not follow: restore it first.

    A CUDA graph is replayed inside a call that is counted, so that its evaluations are, and its output is copied out of the graph.

    Raises ValueError when something else has replaced the network's forward, and for CUDA graphs of a flow on the CPU.
    """
    from fmbench.flows.flow import device_of

    options.require(str(device_of(method)))
    net = method.networks()["network"]
    if not isinstance(vars(net).get("forward"), (Forward, type(None))):
        raise ValueError(
            f"the forward of {type(net).__name__} is already replaced; accelerate the network before wrapping it"
        )
    vars(net).pop("forward", None)
    if options != Acceleration():
        net.forward = Forward(net, options)


@contextmanager
def accelerated(method: Flow, acceleration: Acceleration) -> Iterator[None]:
    """The method's network accelerated inside, plain afterwards: reference solves and Jacobians stay in full precision."""
    if acceleration == Acceleration():
        yield
        return
    accelerate_net(method, acceleration)
    try:
        yield
    finally:
        accelerate_net(method, Acceleration())
