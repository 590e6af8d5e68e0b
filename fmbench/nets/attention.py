"""Softmax attention that can be differentiated in every way: forwards too, as the loss of an average velocity asks for."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``softmax(q k' / sqrt(width)) v`` over (..., tokens, width), by the fastest kernel that has the derivative that is being taken."""
    try:
        return F.scaled_dot_product_attention(q, k, v)
    except NotImplementedError:  # fused kernels have no forward derivative
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(q, k, v)
