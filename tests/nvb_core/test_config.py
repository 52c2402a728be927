from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest

from nvb_core.config import MINI, PRESETS, SD15, SD21, ModelConfig, tiny_config
from nvb_core.errors import ConfigError


def edited(*path: str, value: Any) -> dict[str, Any]:
    """The tiny configuration as a dictionary with one value replaced."""
    values = json.loads(json.dumps(tiny_config().to_dict()))
    *parents, last = path
    target = values
    for name in parents:
        target = target[name]
    target[last] = value
    return values


@pytest.mark.parametrize("config", [*PRESETS.values(), tiny_config()], ids=lambda c: c.name)
def test_json_round_trip(config: ModelConfig) -> None:
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("config", "channels", "feature_size", "latent_size"),
    [(SD21, 1024, 16, 64), (SD15, 768, 16, 64), (MINI, 256, 8, 16), (replace(MINI, image_size=256), 256, 16, 32)],
    ids=["sd21", "sd15", "mini", "mini at 256"],
)
def test_sizes(config: ModelConfig, channels: int, feature_size: int, latent_size: int) -> None:
    assert (config.channels, config.feature_size, config.latent_size) == (channels, feature_size, latent_size)


def test_paper_scale() -> None:
    assert (SD21.encoder.base_channels, SD21.encoder.channel_mult) == (64, (1, 2, 2, 4, 4, 8))
    assert (SD21.encoder.blocks_per_level, SD21.image_size) == (2, 512)
    for config in PRESETS.values():
        assert (config.view.grid_size, config.view.depth_samples, config.view.grid_extent) == (8, 12, 0.45)


@pytest.mark.parametrize("where", [(), ("encoder",), ("view",), ("unet",), ("vae",), ("schedule",)])
def test_unknown_and_missing_keys_are_named(where: tuple[str, ...]) -> None:
    values = tiny_config().to_dict()
    part = values
    for name in where:
        part = part[name]
    path = ".".join(("config", *where))
    unknown = copy.deepcopy(values)
    edited_part = unknown
    for name in where:
        edited_part = edited_part[name]
    edited_part["surprise"] = 1
    with pytest.raises(ConfigError, match=f"^{path}: .*surprise"):
        ModelConfig.from_dict(unknown)
    missing = next(iter(part))
    del part[missing]
    with pytest.raises(ConfigError, match=f"^{path}: .*{missing}"):
        ModelConfig.from_dict(values)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("name",), 3),
        (("image_size",), 32.0),
        (("image_size",), "32"),
        (("image_size",), True),
        (("image_size",), None),
        (("base_model",), "sdxl"),
        (("base_model",), ["sd21"]),
        (("encoder",), []),
        (("encoder",), None),
        (("encoder", "channel_mult"), 4),
        (("encoder", "channel_mult"), "1222"),
        (("encoder", "channel_mult"), [1, "2"]),
        (("view", "grid_extent"), "0.45"),
        (("view", "grid_extent"), False),
        (("unet", "cross_attention"), [1, 0]),
        (("unet", "use_linear_projection"), 1),
        (("schedule", "prediction_type"), "sample"),
        (("schedule", "zero_terminal_snr"), None),
    ],
)
def test_wrong_types_are_named(path: tuple[str, ...], value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^config.{'.'.join(path)}: ") as error:
        ModelConfig.from_dict(edited(*path, value=value))
    assert "\n" not in str(error.value)


def test_checkpoints_from_before_sampling_steps_take_the_papers() -> None:
    values = MINI.to_dict()
    assert values.pop("sampling_steps") == 2
    assert ModelConfig.from_dict(values) == replace(MINI, sampling_steps=50)
    assert SD21.sampling_steps == SD15.sampling_steps == 50


def test_checkpoints_from_before_the_lift_have_none() -> None:
    values = MINI.to_dict()
    assert values["view"].pop("lift_width") == 0
    assert ModelConfig.from_dict(values) == MINI
    with pytest.raises(ConfigError, match=r"view\.lift_width is -1, must be above 0"):
        ModelConfig.from_dict(edited("view", "lift_width", value=-1))


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_sampling_steps_out_of_range(steps: int) -> None:
    with pytest.raises(ConfigError, match=f"^sampling_steps is {steps}, must be in 1–1000$"):
        ModelConfig.from_dict(edited("sampling_steps", value=steps))


@pytest.mark.parametrize("value", [None, [], "config", 3])
def test_not_an_object(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^config: expected an object"):
        ModelConfig.from_dict(value)


def test_whole_numbers_pass_as_floats() -> None:
    extent = ModelConfig.from_dict(edited("view", "grid_extent", value=1)).view.grid_extent
    assert (extent, type(extent)) == (1.0, float)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("image_size",), 0, "image_size.*0 is not a positive multiple of 8"),
        (("image_size",), -32, "image_size.*-32 is not a positive multiple"),
        (("image_size",), 36, "encoder's downscale: 36 is not a positive multiple of 8"),
        (("image_size",), 8200, "image_size is 8200, must be at most 8192"),
        (("encoder", "patch"), 0, "encoder.patch is 0, must be above 0"),
        (("encoder", "channel_mult"), [1] * 17, "encoder.channel_mult is .*at most 8192"),
        (("vae", "latent_channels"), 10**30, "vae.latent_channels is 10+, must be above 0, and at most 8192"),
        (("vae", "layers_per_block"), 3000, "vae.layers_per_block is 3000, must be at most 64"),
        (("view", "grid_extent"), 10**400, "view.grid_extent: expected float, got 10+$"),
        (("encoder", "channel_mult"), [], "encoder.channel_mult"),
        (("encoder", "channel_mult"), [1, 0], "encoder.channel_mult"),
        (("encoder", "norm_groups"), 3, "encoder width and norm_groups: 8 is not"),
        (("encoder", "attention_heads"), 3, "encoder width and attention_heads: 16 is not"),
        (("view", "grid_extent"), float("nan"), "view.grid_extent is nan"),
        (("view", "grid_extent"), float("inf"), "view.grid_extent is inf"),
        (("view", "depth_samples"), -1, "view.depth_samples is -1"),
        (("view", "volume_heads"), 3, "volume_heads: 16 is not"),
        (("view", "camera_predictor_heads"), 5, "camera_predictor_heads: 16 is not"),
        (("view", "aggregator_heads"), 7, "aggregator_heads: 16 is not"),
        (("unet", "cross_attention"), [True], "same length"),
        (("unet", "attention_heads"), [2, 2, 2], "same length"),
        (("unet", "norm_groups"), 16, "unet width and norm_groups: 8 is not"),
        (("unet", "attention_heads"), [3, 2], "unet width and attention_heads: 8 is not"),
        (("vae", "block_out_channels"), [8, 8, 8, 9], "vae width and norm_groups: 9 is not"),
        (("vae", "scaling_factor"), 0, "vae.scaling_factor is 0"),
        (("schedule", "train_timesteps"), 0, "schedule.train_timesteps is 0"),
        (("schedule", "prediction_type"), "epsilon", "zero_terminal_snr needs v_prediction"),
        (("schedule", "timestep_spacing"), "leading", "zero_terminal_snr needs v_prediction and trailing"),
    ],
)
def test_values_that_cannot_be_built(path: tuple[str, ...], value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        ModelConfig.from_dict(edited(*path, value=value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["encoder", "view", "unet", "vae"])
def test_checked_at_construction_too(part: str) -> None:
    config = tiny_config()
    field = "volume_heads" if part == "view" else "norm_groups"
    broken = replace(getattr(config, part), **{field: 7})
    with pytest.raises(ConfigError, match="not a positive multiple of 7"):
        replace(config, **{part: broken})
