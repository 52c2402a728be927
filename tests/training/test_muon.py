from __future__ import annotations

import pytest
import torch
from torch.nn import LayerNorm, Linear, Module, Parameter, Sequential

from training.muon import ADAM_RMS, Muon, matrices, orthogonalised


def network() -> Sequential:
    torch.manual_seed(0)
    return Sequential(Linear(24, 16), LayerNorm(16), Linear(16, 40))


def optimizer(module: Module, lr: float = 0.1, **options: float) -> Muon:
    return Muon(list(module.parameters()), matrices(module), lr=lr, **options)


def give_gradients(module: Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8)])
def test_orthogonalised_keeps_directions_and_evens_out_sizes(shape: tuple[int, int], dtype: torch.dtype) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    result = orthogonalised(matrix, dtype)
    assert result.dtype == dtype
    left, sizes, right = torch.linalg.svd(result.float(), full_matrices=False)
    assert sizes.min() > 0.6
    assert sizes.max() < 1.3
    expected_left, _, expected_right = torch.linalg.svd(matrix, full_matrices=False)
    overlap = (expected_left @ expected_right * (left @ right)).sum() / min(shape)
    assert overlap > 0.99


def test_zero_stays_zero() -> None:
    assert torch.equal(orthogonalised(torch.zeros(3, 5)), torch.zeros(3, 5))


def test_matrices_are_the_trained_weights_of_linear_layers() -> None:
    module = network()
    module[0].requires_grad_(False)
    assert [id(matrix) for matrix in matrices(module)] == [id(module[2].weight)]


def test_steps_equal_torchs_own() -> None:
    module, reference = network(), network()
    ours = optimizer(module, lr=0.02, weight_decay=0.1)
    weights = [reference[0].weight, reference[2].weight]
    theirs = torch.optim.Muon(weights, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for seed in range(3):
        give_gradients(module, seed)
        give_gradients(reference, seed)
        ours.step()
        theirs.step()
    for layer in (0, 2):
        # Theirs rounds to bf16 within: of three steps whose entries are about lr · ADAM_RMS.
        torch.testing.assert_close(module[layer].weight, reference[layer].weight, rtol=0, atol=3 * 0.02 * ADAM_RMS / 10)
        assert not torch.allclose(module[layer].weight, network()[layer].weight, atol=0.02 * ADAM_RMS)


def test_everything_else_steps_as_adamw_does() -> None:
    module, reference = network(), network()
    others = [p for p in reference.parameters() if p.ndim < 2]
    ours, theirs = optimizer(module), torch.optim.AdamW(others, lr=0.1)
    for seed in range(3):
        give_gradients(module, seed)
        give_gradients(reference, seed)
        ours.step()
        theirs.step()
    assert all(
        torch.equal(a, b)
        for a, b in zip(module.parameters(), reference.parameters(), strict=True)
        if isinstance(a, Parameter) and a.ndim < 2
    )


def test_a_step_is_of_the_size_of_adamws() -> None:
    module, before = network(), network()
    ours = optimizer(module, lr=0.01, weight_decay=0.0)
    give_gradients(module, 0)
    ours.step()
    for layer in (0, 2):
        size = (module[layer].weight - before[layer].weight).detach().square().mean().sqrt()
        assert size == pytest.approx(0.01 * ADAM_RMS, rel=0.2)


def test_a_matrix_without_gradient_is_left_alone() -> None:
    module = network()
    ours = optimizer(module)
    give_gradients(module, 0)
    module[0].weight.grad = None
    before = module[0].weight.clone()
    ours.step()
    assert torch.equal(module[0].weight, before)
