from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from nvb_core.config import SD15, SD21, ModelConfig
from nvb_core.denoiser import build_unet
from nvb_core.lora import (
    RANK,
    adaptable,
    adapter_layers,
    add_adapters,
    base_name,
    is_trained,
    merged_state,
    trained_state,
)
from tests.nvb_core.test_backbone import PRESETS


@pytest.fixture
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return build_unet(PRESETS[1]).eval()


def predict(unet: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 16, 16, generator=generator)
    context = torch.randn(2, 9, PRESETS[1].channels, generator=generator)
    with torch.no_grad():
        return unet(latents, torch.tensor([10, 600]), context).sample


def stir(unet: nn.Module) -> None:
    """Adapters start at zero, which would hide them."""
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if is_trained(name):
                parameter.add_(0.1 * torch.randn_like(parameter))


@pytest.mark.parametrize("config", [SD15, SD21], ids=lambda c: c.name)
def test_every_layer_but_attn2_is_adapted(config: ModelConfig) -> None:
    with torch.device("meta"):
        unet = build_unet(config)
    layers = {name for name, module in unet.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    adapted = set(adaptable(unet))
    attn2 = {name for name in layers if "attn2" in name}
    assert adapted == layers - attn2
    # 16 transformer blocks have q, k, v and out in attn2, and in attn1, besides two layers of feed-forward and two
    # projections.
    assert len(attn2) == 16 * 4
    blocks = {name for name in adapted if "transformer_blocks" in name or name.endswith(("proj_in", "proj_out"))}
    assert len(blocks) == 16 * (4 + 2 + 2)
    # 22 residual blocks: two convolutions and a time projection, 14 of them with a shortcut; 3 + 3 resamplers,
    # the first and last convolution, and two layers of time embedding.
    assert len(adapted - blocks) == 22 * 3 + 14 + 3 + 3 + 2 + 2


def test_adapters_start_without_effect_and_add_their_rank(unet: UNet2DConditionModel) -> None:
    before, names = predict(unet), list(unet.state_dict())
    shapes = {name: module.weight.shape for name, module in unet.named_modules() if name in set(adaptable(unet))}
    add_adapters(unet)
    torch.testing.assert_close(predict(unet), before)
    state = trained_state(unet)
    for name, shape in shapes.items():
        down, up = state[f"{name}.lora_A.nvb.weight"], state[f"{name}.lora_B.nvb.weight"]
        assert down.shape == (RANK, *shape[1:])
        assert up.shape[:2] == (shape[0], RANK)
        assert (up == 0).all()
        assert down.std() > 0
    attn2 = {name for name in state if "attn2" in name}
    assert attn2 == {name for name in names if ".attn2." in name}
    assert attn2
    assert len(state) - len(attn2) == 2 * len(shapes)
    assert not any("lora" in name for name in attn2)


def test_a_layers_change_is_the_product_of_its_factors(unet: UNet2DConditionModel) -> None:
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    names = adaptable(unet)
    add_adapters(unet, rank=2)
    stir(unet)
    merged, layers = merged_state(unet), adapter_layers(trained_state(unet))
    assert sorted(layers) == sorted(names)
    for name, (down, up) in layers.items():
        weight = before[f"{name}.weight"]
        change = (up.flatten(1) @ down.flatten(1)).view_as(weight)
        torch.testing.assert_close(merged[f"{name}.weight"], weight + change)


def test_only_adapters_and_attn2_learn(unet: UNet2DConditionModel) -> None:
    add_adapters(unet, rank=2)
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in unet.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):  # the first step moves only the factors that start at zero
        optimizer.zero_grad()
        latents, context = torch.randn(1, 4, 16, 16), torch.randn(1, 9, PRESETS[1].channels)
        unet(latents, torch.tensor([5]), context).sample.square().mean().backward()
        optimizer.step()
    changed = {name for name, value in unet.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(is_trained(name) for name in changed)
    assert {p.requires_grad for n, p in unet.named_parameters() if is_trained(n)} == {True}
    assert {p.requires_grad for n, p in unet.named_parameters() if not is_trained(n)} == {False}


def test_merging_gives_a_plain_unet_that_computes_the_same(unet: UNet2DConditionModel) -> None:
    plain = build_unet(PRESETS[1]).eval()
    names = set(plain.state_dict())
    untouched = predict(unet)
    add_adapters(unet, rank=3)
    stir(unet)
    merged = merged_state(unet)
    assert merged.keys() == names
    plain.load_state_dict(merged)
    torch.testing.assert_close(predict(plain), predict(unet), rtol=1e-4, atol=1e-5)
    assert (predict(plain) - untouched).abs().max() > 1e-2


def test_base_names(unet: UNet2DConditionModel) -> None:
    names = set(unet.state_dict())
    add_adapters(unet)
    assert {base_name(name) for name in unet.state_dict() if "lora" not in name} == names
