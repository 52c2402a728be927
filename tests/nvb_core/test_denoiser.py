from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from nvb_core.config import MINI, SD21, ScheduleConfig, tiny_config
from nvb_core.denoiser import ContextEmbedding, build_scheduler, build_unet, sampling_scheduler
from nvb_core.errors import ConfigError
from nvb_core.layers import PositionedConv


def test_context_is_one_token_per_cell_row_by_row() -> None:
    context = ContextEmbedding(6, 4)
    features = torch.randn(2, 6, 4, 4)
    tokens = context(features)
    assert tokens.shape == (2, 16, 6)
    expected = F.layer_norm(features[1, :, 2, 1], (6,)) + context.position[0, 2 * 4 + 1]
    torch.testing.assert_close(tokens[1, 2 * 4 + 1], expected)


def test_only_an_untrained_unet_gets_a_position() -> None:
    config = tiny_config()
    unet = build_unet(config)
    assert isinstance(unet.conv_in, PositionedConv)
    assert unet.conv_in.position.shape == (config.unet.block_out_channels[0], config.latent_size, config.latent_size)
    with torch.device("meta"):
        assert type(build_unet(SD21).conv_in) is torch.nn.Conv2d


def test_unet_has_stable_diffusions_shape() -> None:
    with torch.device("meta"):
        settings = build_unet(SD21).config
    expected = {
        "sample_size": SD21.latent_size,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "attention_head_dim": (5, 10, 20, 20),
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
        "norm_num_groups": 32,
    }
    assert {key: settings[key] for key in expected} == expected
    with torch.device("meta"):
        shallow = build_unet(replace(SD21, unet=replace(SD21.unet, layers_per_block=1)))
    assert shallow.config["layers_per_block"] == 1


def test_scheduler_has_stable_diffusions_settings() -> None:
    settings = build_scheduler(SD21.schedule).config
    expected = {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "trained_betas": None,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "prediction_type": "epsilon",
        "rescale_betas_zero_snr": False,
        "timestep_spacing": "leading",
        "thresholding": False,
    }
    assert {key: settings[key] for key in expected} == expected


def test_alphas_are_those_of_the_scaled_linear_schedule() -> None:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    expected = (1 - betas).cumprod(0).float()
    scheduler = build_scheduler(SD21.schedule)
    torch.testing.assert_close(scheduler.alphas_cumprod, expected, rtol=1e-4, atol=0)
    assert scheduler.final_alpha_cumprod == scheduler.alphas_cumprod[0]


def test_fifty_leading_timesteps() -> None:
    assert sampling_scheduler(SD21.schedule, 50).timesteps.tolist() == list(range(981, 0, -20))


def test_mini_starts_at_zero_signal() -> None:
    scheduler = sampling_scheduler(MINI.schedule, 50)
    assert scheduler.config["prediction_type"] == "v_prediction"
    assert scheduler.timesteps.tolist() == list(range(999, 0, -20))
    assert scheduler.alphas_cumprod[999] == 0
    assert (scheduler.alphas_cumprod[:999] > 0).all()


@pytest.mark.parametrize(
    ("config", "least", "most"), [(SD21.schedule, 2, 999), (MINI.schedule, 1, 1000)], ids=["leading", "trailing"]
)
def test_any_number_of_steps_has_that_many_falling_timesteps(config: ScheduleConfig, least: int, most: int) -> None:
    for steps in (*range(least, 130), 499, 500, 501, 994, 998, most):
        timesteps = sampling_scheduler(config, steps).timesteps
        assert len(timesteps) == steps
        assert 0 <= timesteps.min() <= timesteps.max() <= 999
        assert (timesteps.diff() < 0).all()
    for steps in (least - 1, most + 1):
        with pytest.raises(ConfigError, match=f"steps is {steps}, this model's schedule takes {least} to {most}"):
            sampling_scheduler(config, steps)


def test_steps_are_limited_by_the_schedule() -> None:
    with pytest.raises(ConfigError, match="steps is 11, this model's schedule takes 1 to 10"):
        sampling_scheduler(replace(MINI.schedule, train_timesteps=10), 11)
