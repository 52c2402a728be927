from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

from nvb_core.autoencoder import Autoencoder
from nvb_core.config import SD15, SD21, ModelConfig
from nvb_core.denoiser import build_unet
from nvb_core.sd_layout import (
    UNET_PREFIX,
    VAE_PREFIX,
    from_original_shape,
    original_unet_name,
    original_vae_name,
    to_original_shape,
    unet_names,
    vae_names,
)

SD = pytest.mark.parametrize("config", [SD15, SD21], ids=lambda c: c.name)


def on_meta(build: Any) -> Any:
    with torch.device("meta"):
        return build()


def numbered(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of the same shapes without storage, so that each can be told by its identity."""
    return {name: torch.empty(value.shape, device="meta") for name, value in state.items()}


def same(converted: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return converted.keys() == expected.keys() and all(converted[name] is expected[name] for name in expected)


@SD
def test_unet_names_are_those_that_diffusers_reads(config: ModelConfig) -> None:
    unet = on_meta(lambda: build_unet(config))
    assert isinstance(unet, UNet2DConditionModel)
    state = numbered(unet.state_dict())
    names = unet_names(state, config.unet)
    assert len(set(names.values())) == len(state) == 686
    original = {names[name]: tensor for name, tensor in state.items()}
    assert same(convert_ldm_unet_checkpoint(original, config=dict(unet.config)), state)


@SD
def test_vae_names_are_those_that_diffusers_reads(config: ModelConfig) -> None:
    vae = on_meta(lambda: Autoencoder(config.vae).kl)
    assert isinstance(vae, AutoencoderKL)
    state = numbered(vae.state_dict())
    names = vae_names(state, config.vae)
    assert len(set(names.values())) == len(state) == 248
    original = {names[name]: to_original_shape(name, tensor) for name, tensor in state.items()}
    converted = convert_ldm_vae_checkpoint(dict(original), config=dict(vae.config))
    assert {name: value.shape for name, value in converted.items()} == {n: v.shape for n, v in state.items()}
    plain = {name for name in state if to_original_shape(name, state[name]) is state[name]}
    assert len(state) - len(plain) == 8  # q, k, v and out of both attentions
    assert all(converted[name] is state[name] for name in plain)


@pytest.mark.parametrize(
    ("name", "original"),
    [
        ("conv_in.weight", "input_blocks.0.0.weight"),
        ("down_blocks.0.downsamplers.0.conv.bias", "input_blocks.3.0.op.bias"),
        (
            "down_blocks.2.attentions.1.transformer_blocks.0.attn2.to_k.weight",
            "input_blocks.8.1.transformer_blocks.0.attn2.to_k.weight",
        ),
        ("up_blocks.0.upsamplers.0.conv.weight", "output_blocks.2.1.conv.weight"),
        ("up_blocks.1.upsamplers.0.conv.weight", "output_blocks.5.2.conv.weight"),
        ("mid_block.resnets.1.time_emb_proj.bias", "middle_block.2.emb_layers.1.bias"),
    ],
)
def test_published_names(name: str, original: str) -> None:
    assert unet_names([name], SD21.unet)[name] == UNET_PREFIX + original


def test_a_shrunken_unet_has_its_own_numbering() -> None:
    config = replace(SD21.unet, layers_per_block=1)
    assert original_unet_name("down_blocks.1.resnets.0.norm1.weight", config) == "input_blocks.3.0.in_layers.0.weight"


def test_decoder_levels_count_from_the_other_end() -> None:
    name = "decoder.up_blocks.0.resnets.2.conv1.bias"
    assert vae_names([name], SD21.vae)[name] == VAE_PREFIX + "decoder.up.3.block.2.conv1.bias"


def test_shapes_round_trip() -> None:
    name, tensor = "encoder.mid_block.attentions.0.to_q.weight", torch.randn(4, 4)
    assert to_original_shape(name, tensor).shape == (4, 4, 1, 1)
    assert torch.equal(from_original_shape(name, to_original_shape(name, tensor)), tensor)
    assert from_original_shape(name, tensor) is tensor
    shortcut = torch.randn(4, 4, 1, 1)
    assert from_original_shape("encoder.down_blocks.0.resnets.0.conv_shortcut.weight", shortcut) is shortcut


@pytest.mark.parametrize("name", ["add_embedding.linear_1.weight", "down_blocks.0.resnets.0.norm3.weight", "conv_in"])
def test_what_stable_diffusion_lacks_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="isn't a tensor of Stable Diffusion"):
        original_unet_name(name, SD21.unet)


def test_a_shortcut_of_the_autoencoder_has_the_original_files_name() -> None:
    # diffusers would read its own name as well, other programs would not
    assert (
        original_vae_name("decoder.up_blocks.2.resnets.0.conv_shortcut.weight", SD21.vae)
        == "decoder.up.1.block.0.nin_shortcut.weight"
    )
