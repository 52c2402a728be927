from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import Linear

from nvb_core.errors import ConfigError
from training.muon import Muon, matrices
from training.optimizers import build_optimizer, moments, restore_moments
from training.options import RunOptions

MUON, ADAM = {"momentum"}, {"exp_avg", "exp_avg_sq"}


def options(**changes: Any) -> RunOptions:
    return RunOptions(out=Path("x"), data=(Path("y"),), steps=1, batch_size=1, **{"lr": 0.1, **changes})


@pytest.mark.parametrize("steps", [0, 1])
def test_moments_by_kind_of_parameter(steps: int) -> None:
    layer = Linear(4, 3)
    ours = Muon(list(layer.parameters()), matrices(layer), lr=0.1)
    adam = torch.optim.AdamW(layer.parameters())
    for optimizer in (adam, ours)[: 2 * steps]:
        layer(torch.ones(1, 4)).sum().backward()
        optimizer.step()
    assert set(moments(ours, layer.weight)) == MUON
    assert set(moments(ours, layer.bias)) == ADAM
    assert set(moments(adam, layer.weight)) == ADAM
    assert all(value.any() == bool(steps) for value in moments(adam, layer.weight).values())


def test_restored_moments_go_on_exactly() -> None:
    first, second = Linear(4, 3), Linear(4, 3)
    optimizers = [build_optimizer(layer, options()) for layer in (first, second)]
    for _ in range(3):
        first(torch.ones(2, 4)).square().sum().backward()
        optimizers[0].step()
        optimizers[0].zero_grad()
    second.load_state_dict(first.state_dict())
    for old, new in zip(first.parameters(), second.parameters(), strict=True):
        restore_moments(optimizers[1], new, 3, {k: v.clone() for k, v in moments(optimizers[0], old).items()})
    for layer, optimizer in zip((first, second), optimizers, strict=True):
        layer(torch.ones(2, 4)).square().sum().backward()
        optimizer.step()
    assert torch.equal(first.weight, second.weight)


def test_8_bit_moments_need_a_gpu() -> None:
    with pytest.raises(ConfigError, match="adamw8bit needs a GPU"):
        build_optimizer(Linear(2, 2), options(optimizer="adamw8bit"))


def test_8_bit_moments_are_kept_exactly() -> None:
    """Large parameters have quantised moments and their scales, small ones float32; constant tables aren't kept."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    layer = Linear(100, 100)
    first, second = (bitsandbytes.optim.AdamW8bit(layer.parameters(), lr=0.1) for _ in range(2))
    kept = {name: moments(first, parameter) for name, parameter in layer.named_parameters()}
    assert set(kept["weight"]) == {"state1", "state2", "absmax1", "absmax2"}
    assert set(kept["bias"]) == {"state1", "state2"}
    for name, parameter in layer.named_parameters():
        for value in kept[name].values():
            value.copy_(torch.rand(value.shape) * 200)
        restore_moments(second, parameter, 5, kept[name])
        state = second.state[parameter]
        assert state["step"] == 5
        assert {"qmap1", "qmap2"} <= set(state) or name == "bias"
        assert all(torch.equal(moments(second, parameter)[key], value) for key, value in kept[name].items())


@pytest.mark.parametrize(("precision", "dtype"), [("no", torch.float32), ("bf16", torch.bfloat16)])
def test_muon_orthogonalises_in_the_precision_of_training(precision: str, dtype: torch.dtype) -> None:
    optimizer = build_optimizer(Linear(4, 3), options(optimizer="muon", precision=precision))
    assert isinstance(optimizer, Muon)
    assert optimizer.dtype == dtype
