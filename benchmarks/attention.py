"""How long attention of `mini`'s view transform takes to train in bf16: torch's choice against matrix products.

python -m benchmarks.attention
"""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
import tyro

from training.attention import quick_attention

SHAPES = {  # 4 faces × 4 views of `mini`: batch, heads, queries, keys, width of a head
    "along rays": (1024, 8, 12, 12, 32),
    "within planes": (192, 8, 64, 64, 32),
    "within the grid": (4, 8, 512, 512, 32),
    "grid to features": (4, 8, 512, 64, 32),
}


def seconds(shape: tuple[int, int, int, int, int], precision: str) -> float:
    """Least time of 5 forward and backward passes in bf16."""
    batch, heads, queries, keys, width = shape
    times = []
    for _ in range(5):
        q, k, v = (
            torch.randn(batch, n, heads, width, dtype=torch.bfloat16).transpose(1, 2).requires_grad_()
            for n in (queries, keys, keys)
        )
        started = time.perf_counter()
        with quick_attention(torch.device("cpu"), precision):
            F.scaled_dot_product_attention(q, k, v).sum().backward()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    """Print a table."""
    print(f"{'attention':<20}{'fused ms':>10}{'products ms':>13}{'ratio':>8}")
    for name, shape in SHAPES.items():
        fused, products = seconds(shape, "no"), seconds(shape, "bf16")
        print(f"{name:<20}{1e3 * fused:>10.1f}{1e3 * products:>13.1f}{fused / products:>8.1f}")


if __name__ == "__main__":
    tyro.cli(main)
