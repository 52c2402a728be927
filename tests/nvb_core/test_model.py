from __future__ import annotations

import functools
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from nvb_core.cameras import Cameras
from nvb_core.config import MINI, PRESETS, SD15, SD21, ModelConfig, tiny_config
from nvb_core.errors import ConfigError
from nvb_core.model import NVBModel
from nvb_core.pipeline import render_views
from nvb_core.sampling import SamplingOptions

# unet/config.json as published with Stable Diffusion 1.5; 2.1-base differs in the second part.
SD15_UNET: dict[str, Any] = {
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}
SD21_UNET = SD15_UNET | {
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "dual_cross_attention": False,
    "only_cross_attention": False,
    "use_linear_projection": True,
}
# vae/config.json of both.
SD_VAE: dict[str, Any] = {
    "act_fn": "silu",
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}


@functools.cache
def on_meta(config: ModelConfig) -> NVBModel:
    with torch.device("meta"):
        return NVBModel(config).requires_grad_(False)


def shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def shrunken(config: ModelConfig) -> ModelConfig:
    """The same topology with few channels and few pixels."""
    channels = 32
    return replace(
        config,
        image_size=2 * config.encoder.downscale,
        encoder=replace(config.encoder, base_channels=8, norm_groups=4, out_channels=channels),
        view=replace(config.view, aggregator_width=16),
        unet=replace(
            config.unet,
            block_out_channels=tuple(8 * heads for heads in config.unet.attention_heads),
            norm_groups=8,
        ),
        vae=replace(config.vae, block_out_channels=tuple(8 for _ in config.vae.block_out_channels), norm_groups=4),
    )


@pytest.mark.parametrize("config", PRESETS.values(), ids=lambda c: c.name)
def test_presets_have_the_designed_shapes(config: ModelConfig) -> None:
    model, channels, cells, latent = on_meta(config), config.channels, config.feature_size, config.latent_size
    size, latents, depth = config.image_size, config.vae.latent_channels, config.view.depth_samples
    with torch.device("meta"):
        t = torch.zeros(2, dtype=torch.long)
        images = torch.zeros(2, 3, size, size)
        features = model.encoder(images, t)
        vector = model.view.camera_predictor(features)
        grid = model.view.volume(features, vector, t)
        frustum = torch.zeros(2, channels, depth, cells, cells)
        inside = torch.zeros(2, depth, cells, cells, dtype=torch.bool)
        context = model.context(model.view.aggregator(frustum, inside, t))
        prediction = model.unet(torch.zeros(2, latents, latent, latent), t, context).sample
        assert model.vae.encode(images[:1]).shape == (1, latents, latent, latent)
        assert model.vae.decode(prediction[:1]).shape == (1, 3, size, size)
    assert features.shape == (2, channels, cells, cells)
    assert vector.shape == (2, 16)
    assert grid.shape == (2, channels, 8, 8, 8)
    assert context.shape == (2, cells**2, channels)
    assert prediction.shape == (2, latents, latent, latent)


@pytest.mark.parametrize(
    ("config", "published", "count"),
    [(SD15, SD15_UNET, 859_520_964), (SD21, SD21_UNET, 865_910_724)],
    ids=["sd15", "sd21"],
)
def test_unet_has_stable_diffusions_layout(config: ModelConfig, published: dict[str, Any], count: int) -> None:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        reference = UNet2DConditionModel(**published)
    unet = on_meta(config).unet
    assert parameters(unet) == count
    assert shapes(unet) == shapes(reference)
    heads = {name: m.heads for name, m in reference.named_modules() if name.endswith("attn2")}
    assert {name: m.heads for name, m in unet.named_modules() if name.endswith("attn2")} == heads
    ours = dict(unet.config)
    if published["attention_head_dim"] == 8:
        assert ours.pop("attention_head_dim") == (8, 8, 8, 8)
    ours.pop("_use_default_values")
    assert ours == {key: reference.config[key] for key in ours}


def test_vae_has_stable_diffusions_layout() -> None:
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        reference = AutoencoderKL(**SD_VAE)
    vae = on_meta(SD21).vae
    assert parameters(vae) == 83_653_863
    assert shapes(vae.kl) == shapes(reference)
    assert SD21.vae.scaling_factor == reference.config["scaling_factor"]


def test_mini_fits_its_file() -> None:
    values = sum(tensor.numel() for tensor in on_meta(MINI).state_dict().values())
    assert 2 * values <= 64 * 2**20  # as float16


def test_our_networks_take_their_layers_from_the_given_operations() -> None:
    kinds = (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.GroupNorm)
    operations = SimpleNamespace(**{kind.__name__: type(kind.__name__, (kind,), {}) for kind in kinds})
    torch.manual_seed(0)
    model = NVBModel(tiny_config(), operations)
    ours = nn.ModuleList([model.encoder, model.view, model.context])
    layers = [module for module in ours.modules() if isinstance(module, kinds)]
    assert {type(layer) for layer in layers} == set(vars(operations).values())
    torch.manual_seed(0)
    plain = NVBModel(tiny_config()).state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("config", PRESETS.values(), ids=lambda c: c.name)
def test_shrunken_presets_render(config: ModelConfig) -> None:
    torch.manual_seed(0)
    small = shrunken(config)
    model = NVBModel(small).eval()
    crop = torch.rand(3, small.image_size, small.image_size) * 2 - 1
    rendered = render_views(model, crop, Cameras.from_angles([0, 20]), SamplingOptions(steps=2))
    assert rendered.images.shape == (2, 3, small.image_size, small.image_size)
    assert rendered.images.isfinite().all()
    assert rendered.images.std() > 0.01


@pytest.mark.parametrize("config", PRESETS.values(), ids=lambda c: c.name)
def test_shrinking_keeps_the_topology(config: ModelConfig) -> None:
    def names(c: ModelConfig) -> set[str]:
        # Where a level has as many channels as the one before, a residual block needs no shortcut.
        kept = on_meta(c).state_dict()
        return {name for name in kept if ".skip." not in name and "conv_shortcut" not in name}

    assert names(shrunken(config)) == names(config)


LEAVES = [
    (part, name)
    for part, values in tiny_config().to_dict().items()
    if isinstance(values, dict)
    for name, value in values.items()
    if type(value) in (int, tuple)
]


@settings(deadline=None, max_examples=15)
@given(leaf=st.sampled_from(LEAVES), numbers=st.lists(st.integers(-1, 24), max_size=4))
@example(leaf=("encoder", "channel_mult"), numbers=[])
@example(leaf=("unet", "attention_heads"), numbers=[4, 8])
def test_a_config_is_refused_or_can_be_built(leaf: tuple[str, str], numbers: list[int]) -> None:
    values = json.loads(json.dumps(tiny_config().to_dict()))
    part, name = leaf
    old = values[part][name]
    values[part][name] = numbers if isinstance(old, list) else (numbers or [0])[0]
    try:
        config = ModelConfig.from_dict(values)
    except ConfigError:
        return
    assert on_meta(config).config == config
