"""Muon: matrices step along their orthogonalised momentum, everything else by AdamW.

K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024), with the step size of J. Liu et al.,
arXiv 2502.16982, which is that of AdamW, so that both share one learning rate. torch.optim.Muon computes in bf16 on any
processor, which takes ten times as long as float32 on one without it; here the caller says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

ITERATION = (3.4445, -4.7750, 2.0315)
"""Coefficients of the polynomial x, x**3, x**5 by which Newton-Schulz draws singular values towards 1."""
ITERATIONS = 5
ADAM_RMS = 0.2
"""Root mean square of AdamW's steps in units of the learning rate."""


def matrices(network: nn.Module) -> list[Tensor]:
    """The trained weights of a network's linear layers."""
    layers = (module for module in network.modules() if isinstance(module, nn.Linear))
    return [layer.weight for layer in layers if layer.weight.requires_grad]


@torch.no_grad()
def orthogonalised(matrix: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """About U V' of a matrix U S V', computed in dtype; the singular values come out between 0.7 and 1.2."""
    a, b, c = ITERATION
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = (x.float() / x.norm().clamp(min=1e-7)).to(dtype)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.AdamW):
    """AdamW, but for `matrices`."""

    def __init__(
        self,
        parameters: list[Tensor],
        matrices: list[Tensor],
        momentum: float = 0.95,
        dtype: torch.dtype = torch.float32,
        **adam: Any,
    ) -> None:
        orthogonal = {id(matrix) for matrix in matrices}
        others = [parameter for parameter in parameters if id(parameter) not in orthogonal]
        super().__init__([{"params": others}, {"params": matrices}], **adam)
        self.momentum, self.dtype = momentum, dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; the matrices' gradients are used up by it."""
        group = self.param_groups[1]
        for matrix in group["params"]:
            if matrix.grad is not None:
                self._step_matrix(matrix, matrix.grad, group["lr"], group["weight_decay"])
                matrix.grad = None  # so that AdamW leaves it alone
        return super().step(closure)

    def _step_matrix(self, matrix: Tensor, gradient: Tensor, lr: float, weight_decay: float) -> None:
        state = self.state[matrix]
        if not state:
            state["momentum"] = torch.zeros_like(matrix)
        state["momentum"].lerp_(gradient, 1 - self.momentum)
        direction = orthogonalised(gradient.lerp(state["momentum"], self.momentum), self.dtype)  # Nesterov's
        matrix.mul_(1 - lr * weight_decay)
        matrix.add_(direction, alpha=-lr * ADAM_RMS * math.sqrt(max(matrix.shape)))
