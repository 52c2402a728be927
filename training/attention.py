"""Attention as plain matrix products where that trains faster than torch's fused kernel."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch


@contextmanager
def quick_attention(device: torch.device, precision: str) -> Generator[None]:
    """Within it, bf16 attention on a CPU is made of matrix products.

    The fused kernel's backward pass is slow there: along a ray products train in a tenth of its time
    (`python -m benchmarks.attention`).
    """
    if device.type != "cpu" or precision != "bf16":
        yield
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel

    # Without this torch computes these products in float32; despite its place it is read on CPUs too.
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)
