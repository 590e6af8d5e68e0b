"""The precision in which a loss is computed: set by the recipe, or chosen by the capabilities of the device."""

from __future__ import annotations

import torch


def has_bfloat16_units(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 in hardware; elsewhere it emulates that, on a CPU ten times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # avx512_bf16 and amx_bf16 on x86, bf16 and sve_bf16 on ARM.
        return any("bf16" in unit and bool(there) for unit, there in torch.cpu.get_capabilities().items())
    return False


def precision_on(device: torch.device, precision: str) -> str:
    """ "float32" or "bfloat16": the precision itself, for "auto" bfloat16 where the device has units for it."""
    if precision != "auto":
        return precision
    return "bfloat16" if has_bfloat16_units(device) else "float32"
