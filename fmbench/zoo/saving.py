"""Conversion of the state of a method to the bytes of a weight file, and back.

Weights and buffers of floating dtypes are stored in the dtype that the recipe declares, all others in their own. A tensor that several modules
share is stored once, under its first name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fmbench.execution.foreign import ForeignError, foreign
from fmbench.methods.base import Method
from fmbench.zoo.weight_file import Header

NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.complex64: "C64",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16",
}  # fmt: skip
"""safetensors names of the dtypes that a weight file may hold."""


@dataclass(frozen=True)
class Layout:
    """The content of a method's weight file.

    Attributes:
        stored: name -> (dtype in the file, shape).
        tied: name of a tensor that is stored under another name -> that name.
    """

    stored: Header
    tied: Mapping[str, str]


def _state(method: nn.Module) -> dict[str, Tensor]:
    """The state of a method, the tensors themselves. Raises ForeignError naming a value that a weight file cannot hold."""
    with foreign(f"the state of {type(method).__name__} cannot be read"):
        state = dict(method.state_dict(keep_vars=True))
    for name, value in state.items():
        wrong = None
        if not isinstance(value, Tensor):
            wrong = f"is of type {type(value).__name__}, and a weight file holds tensors only; keep it in a buffer"
        elif nn.parameter.is_lazy(value):
            wrong = "has no shape before the first call; give its layer the number of inputs"
        elif value.layout != torch.strided or value.is_quantized:
            wrong = "is sparse or quantised; keep it dense"
        elif not value.dtype.is_floating_point and value.dtype not in NAMES:
            wrong = f"is {str(value.dtype).removeprefix('torch.')}, which a weight file does not hold"
        if wrong:
            raise ForeignError(f"the state of {type(method).__name__} cannot be saved: {name!r} {wrong}")
    held = {id(value) for value in state.values()}
    for name, value in method.named_parameters():
        if name not in state and id(value) not in held:
            raise ForeignError(f"{name} of {type(method).__name__} is not part of its state_dict, so it would be lost")
    return state


def layout(method: Method, storage: str) -> Layout:
    """The layout of a method's weight file when floats are stored as ``storage``. Raises ForeignError for a state that cannot be saved."""
    stored: Header = {}
    tied: dict[str, str] = {}
    first: dict[int, str] = {}
    state = _state(method)
    for name, value in state.items():
        if id(value) in first:
            tied[name] = first[id(value)]
            continue
        first[id(value)] = name
        dtype = getattr(torch, storage) if value.dtype.is_floating_point else value.dtype
        stored[name] = (NAMES[dtype], tuple(value.shape))
    return Layout(stored, tied)


def to_bytes(method: Method, storage: str) -> bytes:
    """The weight file of a method. Raises ForeignError in one line for a state that no file holds, or that ``storage`` makes infinite."""
    from safetensors.torch import save

    names, state = layout(method, storage), _state(method)
    trained = {name for name, _ in method.named_parameters(remove_duplicate=False)}
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    with foreign(f"the state of {type(method).__name__} cannot be saved"):
        for name in names.stored:
            value = state[name].detach().cpu().resolve_conj().resolve_neg()
            narrow = value.to(getattr(torch, storage)) if value.dtype.is_floating_point else value
            _require_finite(name, value, narrow, name in trained)
            narrow = narrow.contiguous()
            # Two parameters may be two views of one memory; the file holds them apart.
            memory = narrow.untyped_storage().data_ptr()
            tensors[name] = narrow.clone() if memory in seen else narrow
            seen.add(memory)
        return save(tensors)


def _require_finite(name: str, value: Tensor, narrow: Tensor, trained: bool) -> None:
    if not (narrow.dtype.is_floating_point or narrow.dtype.is_complex):
        return
    finite = narrow.isfinite()
    if trained and not bool(value.isfinite().all()):
        raise ForeignError(f"{name} is not finite; lower train.lr or set train.clip")
    if not bool((finite | ~value.isfinite()).all()):
        largest = float(value[value.isfinite()].abs().max())
        dtype = str(narrow.dtype).removeprefix("torch.")
        raise ForeignError(f'{name} reaches {largest:.4g}, which {dtype} cannot hold; set train.storage = "float32"')


def from_bytes(data: bytes, where: str | Path) -> dict[str, Tensor]:
    """The tensors of a weight file. Raises ForeignError in one line, after ``where``, for bytes that are none."""
    from safetensors.torch import load

    with foreign(f"{where} is no weight file"):
        return load(data)


def require_fit(found: Header, wanted: Layout, where: str | Path) -> None:
    """Raise ValueError in one line, after ``where``, naming the first tensor that is missing, unknown, or of another shape or dtype."""
    for name in wanted.stored:
        if name not in found:
            raise ValueError(f"{where}: the weights do not fit the recipe's [net]: {name} is missing")
    for name, (dtype, shape) in found.items():
        expected = wanted.stored.get(wanted.tied.get(name, name))
        if expected is None:
            raise ValueError(f"{where}: the weights do not fit the recipe's [net]: it has no {name!r:.100}")
        if shape != expected[1]:
            raise ValueError(
                f"{where}: the weights do not fit the recipe's [net]: {name} has shape {shape}, not {expected[1]}"
            )
        if dtype != expected[0]:
            raise ValueError(f"{where}: {name} is stored as {dtype}, and the recipe makes it {expected[0]}")


def restore(method: Method, tensors: Mapping[str, Tensor], storage: str, where: str | Path) -> None:
    """Load the tensors of a weight file into a method. Raises ValueError in one line for what does not fit or is not finite."""
    wanted = layout(method, storage)
    found: Header = {n: (NAMES.get(v.dtype, str(v.dtype)), tuple(v.shape)) for n, v in tensors.items()}
    require_fit(found, wanted, where)
    for name, first in wanted.tied.items():
        if name in tensors and not torch.equal(tensors[name], tensors[first]):
            raise ValueError(f"{where}: {name} and {first} are one tensor in the network and two in the file")
    trained = {name for name, _ in method.named_parameters()}
    for name, value in tensors.items():
        if name in trained and not bool(value.isfinite().all()):
            raise ValueError(f"{where}: {name} is not finite")
    tied = {name: tensors[first] for name, first in wanted.tied.items()}
    with foreign(f"{where}: the weights cannot be loaded"):
        method.load_state_dict({**tensors, **tied})


def require_saved(method: Method, fresh: Method, data: bytes, storage: str) -> None:
    """Load ``data``, the weight file of ``method``, into ``fresh``, a newly built one, and compare the two.

    Raises ForeignError in one line naming what did not survive, or what ``fresh`` has otherwise without its being saved.
    """
    kind = type(method).__name__
    restore(fresh, from_bytes(data, f"what {kind} saves"), storage, f"what {kind} saves")
    before, after = _state(method), _state(fresh)
    for name, value in before.items():
        old, new = value.detach().cpu(), after[name].detach().cpu()
        if old.dtype.is_floating_point:
            old = old.to(getattr(torch, storage)).to(new.dtype)
        if not _equal(old, new):
            raise ForeignError(f"the state of {kind} does not survive its file: {name} comes back changed")
    kept, again = dict(_unsaved(method)), dict(_unsaved(fresh))
    for name, value in kept.items():
        if name not in again or not _equal(value.detach().cpu(), again[name].detach().cpu()):
            raise ForeignError(
                f"{name} of {kind} is not part of its state_dict and differs in every build, so it would be lost; "
                "register it as a buffer"
            )


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same, NaN for NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())


def _unsaved(method: Method) -> Iterator[tuple[str, Tensor]]:
    """Tensors that modules hold besides their state: plain attributes, in lists and tables too, and buffers that are not persistent."""
    for path, module in method.named_modules():
        held: dict[str, Any] = {
            k: v for k, v in vars(module).items() if k not in ("_parameters", "_modules", "_buffers")
        }
        held |= {k: module._buffers[k] for k in module._non_persistent_buffers_set}
        for name, value in held.items():
            items = (
                value.items()
                if isinstance(value, dict)
                else enumerate(value)
                if isinstance(value, (list, tuple))
                else ()
            )
            for key, part in (("", value), *((f"[{k!r}]", v) for k, v in items)):
                if isinstance(part, Tensor) and not nn.parameter.is_lazy(part):
                    yield f"{path}.{name}{key}".lstrip("."), part
