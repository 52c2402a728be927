from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from training.attention import quick_attention

CPU = torch.device("cpu")


def kernel_of(device: torch.device, precision: str) -> str:
    """Name of the node that a backward pass of attention starts with."""
    q = torch.randn(2, 2, 5, 8, dtype=torch.bfloat16, requires_grad=True)
    with quick_attention(device, precision):
        return type(F.scaled_dot_product_attention(q, q, q).grad_fn).__name__


def test_products_on_a_cpu_in_bf16_alone() -> None:
    fused = kernel_of(CPU, "no")
    assert "Attention" in fused
    assert kernel_of(torch.device("cuda"), "bf16") == fused  # a device's own kernels are left to it
    assert "Attention" not in kernel_of(CPU, "bf16")
    assert kernel_of(CPU, "no") == fused


def test_same_values_and_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, 12, 8, generator=generator, dtype=torch.bfloat16).requires_grad_().unbind()
    results = []
    for precision in ("no", "bf16"):
        with quick_attention(CPU, precision):
            output = F.scaled_dot_product_attention(q, k, v)
        gradients = torch.autograd.grad(output.float().square().sum(), (q, k, v))
        results.append((output, *gradients))
    for fused, products in zip(*results, strict=True):
        torch.testing.assert_close(products, fused, rtol=0.05, atol=0.05)


def test_an_error_leaves_no_setting_behind() -> None:
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    with pytest.raises(RuntimeError, match="batch2"), quick_attention(CPU, "bf16"):
        F.scaled_dot_product_attention(torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4))
    assert torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed() == before
