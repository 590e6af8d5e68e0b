"""Floating-point operations of one network evaluation and of a sample, by torch's counter, naming the work that it cannot count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fmbench.execution.foreign import isolated
from fmbench.execution.operators import OperatorMode, uncompiled
from fmbench.flows.evaluations import counting

_MOVEMENT = """
_embedding_bag _local_scalar_dense _to_copy _unsafe_index _unsafe_view cat clone constant_pad_nd copy embedding fill flip gather grid_sampler_2d
grid_sampler_3d index index_add index_put index_select lift_fresh masked_scatter masked_select nonzero pixel_shuffle pixel_unshuffle
reflection_pad1d reflection_pad2d repeat repeat_interleave replication_pad1d replication_pad2d resize roll scatter scatter_add select_scatter set
slice_scatter sort split_with_sizes_copy stack topk tril triu unfold_copy unsafe_chunk unsafe_split unsafe_split_with_sizes upsample_bicubic2d
upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d zero
"""
_REDUCTION = """
_adaptive_avg_pool2d _adaptive_avg_pool3d _batch_norm_no_update _fused_rms_norm _log_softmax _native_batch_norm_legit
_native_batch_norm_legit_no_training _safe_softmax _softmax _weight_norm_interface adaptive_max_pool2d all amax amin any argmax argmin avg_pool1d
avg_pool2d avg_pool3d cudnn_batch_norm cummax cumprod cumsum equal linalg_vector_norm logcumsumexp logsumexp max max_pool2d_with_indices
max_pool3d_with_indices mean min miopen_batch_norm native_batch_norm native_dropout native_group_norm native_layer_norm norm prod std std_mean
sum var var_mean
"""
_FACTORY = """
bernoulli empty empty_like empty_strided exponential full_like new_empty new_empty_strided new_full new_ones new_zeros normal ones_like rand_like
randint_like randn_like uniform zeros_like
"""
LINEAR_COST = frozenset(f"{_MOVEMENT}{_REDUCTION}{_FACTORY}".split())
"""Operators of ATen whose work grows with the numbers they read or write only: what a count of multiply-adds leaves out by convention."""


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of a network, 2 for every multiply-add of a matrix product, convolution or attention, 0 for all else.

    Attributes:
        per_evaluation: of one network evaluation for one sample (one row through the network).
        per_sample: of everything the network did for one sample; ``per_evaluation`` times ``evaluations``.
        evaluations: network evaluations per sample, counted, guidance included.
        uncounted: ``module type (operator)`` of work inside the network that has no formula, sorted; unless it is empty, the counts are
            lower bounds.
    """

    per_evaluation: float
    per_sample: float
    evaluations: float
    uncounted: tuple[str, ...]


def is_compiled(net: nn.Module) -> bool:
    """Whether torch.compile was applied to the module or any part of it."""
    return any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in net.modules())


def _is_linear_cost(operator: Any) -> bool:
    """Whether an operator needs no formula: views, elementwise maps, what makes tensors from none, `LINEAR_COST`."""
    if operator.is_view or torch.Tag.pointwise in operator.tags or torch.Tag.inplace_view in operator.tags:
        return True
    if operator.namespace != "aten":
        return operator.namespace == "prim"
    takes_tensor = any("Tensor" in str(argument.type) for argument in operator._schema.arguments)
    return not takes_tensor or operator._opname.removesuffix("_") in LINEAR_COST


@dataclass
class _Inside:
    """State of the count inside a network: running modules, innermost last, and the operations counted so far."""

    counter: Any
    modules: list[str] = field(default_factory=list)
    entered_at: int = 0
    total: int = 0
    uncounted: set[str] = field(default_factory=set)

    def enter(self, module: nn.Module, _: Any) -> None:
        if not self.modules:
            self.entered_at = self.counter.get_total_flops()
        self.modules.append(type(module).__name__)

    def leave(self, _: nn.Module, __: Any, ___: Any) -> None:
        self.modules.pop()
        if not self.modules:
            self.total += self.counter.get_total_flops() - self.entered_at


class _Watch(OperatorMode):
    """Sees the operators that the counter executes, after it has decomposed what it can."""

    def __init__(self, inside: _Inside) -> None:
        super().__init__()
        self.inside = inside

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inside = self.inside
        if inside.modules and func._overloadpacket not in inside.counter.flop_registry and not _is_linear_cost(func):
            inside.uncounted.add(f"{inside.modules[-1]} ({func._overloadpacket})")
        return func(*args, **(kwargs or {}))


@contextmanager
def _countable(net: nn.Module) -> Iterator[None]:
    """Switch off the fused kernels of attention and recurrent layers, whose matrix products the counter cannot see."""
    backends = torch.backends
    before = backends.mha.get_fastpath_enabled(), backends.mkldnn.enabled, backends.cudnn.enabled
    try:
        backends.mha.set_fastpath_enabled(False)
        # Convolutions have a formula on every backend and some exist on these only, so they stay unless a recurrent layer asks.
        if any(isinstance(module, nn.RNNBase) for module in net.modules()):
            backends.mkldnn.enabled = backends.cudnn.enabled = False
        yield
    finally:
        backends.mha.set_fastpath_enabled(before[0])
        backends.mkldnn.enabled, backends.cudnn.enabled = before[1:]


@contextmanager
def _watched(net: nn.Module) -> Iterator[_Inside]:
    """Context that counts inside ``net``; hooks and modes are removed afterwards, also after an exception."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    inside = _Inside(counter)
    with ExitStack() as stack:
        stack.enter_context(_countable(net))
        if is_compiled(net):
            stack.enter_context(uncompiled())
        for module in net.modules():
            stack.callback(module.register_forward_pre_hook(inside.enter).remove)
            stack.callback(module.register_forward_hook(inside.leave).remove)
        # Entered before the counter, so called after it: on what is left when the counter has decomposed an operator.
        stack.enter_context(_Watch(inside))
        stack.enter_context(counter)
        yield inside


def flops_per_call(net: nn.Module, call: Callable[[], Any], samples: int) -> Flops:
    """Operations inside ``net`` while ``call()`` makes ``samples`` samples; gradients are off.

    The number follows from shapes and does not depend on device or kernel: fused attention and recurrent kernels are switched off during
    the call and compiled modules run uncompiled. What is outside ``net.forward`` (solver, decoder) does not count. An operator
    without a formula that may do more than linear work is named in ``uncounted``, custom ones too; work that does not pass torch's
    dispatcher (NumPy, a directly launched Triton kernel) cannot be noticed.

    Raises ValueError for samples < 1 and when ``call`` never runs ``net``.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}; give what one call makes")
    with torch.no_grad(), counting({"network": net}, 0) as rows, _watched(net) as inside, isolated():
        call()
    evaluated = rows.network + rows.guidance
    if not evaluated:
        raise ValueError(
            f"the call never ran {type(net).__name__}; give the network that it calls (and call it, not its forward)"
        )
    return Flops(inside.total / evaluated, inside.total / samples, evaluated / samples, tuple(sorted(inside.uncounted)))


@dataclass(frozen=True)
class Work:
    """Work of one call per sample: floating-point operations, 2 for every multiply-add, and network evaluations of all purposes."""

    flops: float
    evaluations: float


def work_per_call(
    flow: nn.Module, networks: Mapping[str, nn.Module], call: Callable[[], Any], samples: int, ndim: int
) -> Work:
    """Work of ``call()``, which makes ``samples`` samples; gradients are off.

    All operations count, whichever network of ``networks`` they are in, decoders and what is outside every network included. ``ndim`` is
    that of a batch of states. As in :func:`flops_per_call` the number follows from shapes; work without a formula counts nothing.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        rows = stack.enter_context(counting(networks, ndim))
        stack.enter_context(_countable(flow))
        if is_compiled(flow):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        counter = stack.enter_context(FlopCounterMode(display=False))
        # What the call does to built-in names and the like has ended before the sums are taken.
        with isolated():
            call()
    return Work(counter.get_total_flops() / samples, rows.total / samples)
