from __future__ import annotations

import pytest
import torch

from nvb_core.config import tiny_config
from nvb_core.errors import ConfigError
from nvb_core.model import NVBModel
from training.widen import widen_latents


@pytest.fixture
def model() -> NVBModel:
    torch.manual_seed(0)
    model = NVBModel(tiny_config())
    for parameter in model.parameters():  # nothing may be zero, or a misplaced weight could hide
        torch.nn.init.normal_(parameter, std=0.1)
    model.vae.latent_mean.normal_()
    model.vae.latent_std.uniform_(0.5, 2)
    model.vae.preview_weight.normal_()
    return model.requires_grad_(False).eval()


def test_wide_autoencoder_does_what_the_narrow_one_did(model: NVBModel) -> None:
    wide = widen_latents(model, 7)
    assert wide.config.vae.latent_channels == 7
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    old, new = model.vae.encode(images), wide.vae.encode(images)
    torch.testing.assert_close(new[:, :4], old)
    assert new[:, 4:].abs().amax() > 1e-3  # there to be used
    torch.testing.assert_close(wide.vae.decode(new), model.vae.decode(old))
    torch.testing.assert_close(wide.vae.preview(new), model.vae.preview(old))


def test_wide_denoiser_ignores_the_new_channels(model: NVBModel) -> None:
    wide = widen_latents(model, 7)
    noisy = torch.randn(2, 7, 4, 4)
    timesteps, context = torch.tensor([10, 700]), torch.randn(2, 16, model.config.channels)
    old = model.unet(noisy[:, :4], timesteps, context).sample
    new = wide.unet(noisy, timesteps, context).sample
    torch.testing.assert_close(new[:, :4], old)
    assert new[:, 4:].abs().amax() == 0


def test_the_rest_is_copied(model: NVBModel) -> None:
    model.metadata = {"training": {"vae": {}}}
    wide = widen_latents(model, 5)
    assert wide.metadata == model.metadata
    for part in ("encoder", "view", "context"):
        old, new = model.get_submodule(part).state_dict(), wide.get_submodule(part).state_dict()
        assert all(torch.equal(old[name], new[name]) for name in old)


def test_same_width_is_a_copy(model: NVBModel) -> None:
    wide = widen_latents(model, 4)
    assert all(torch.equal(value, wide.state_dict()[name]) for name, value in model.state_dict().items())


def test_channels_are_never_dropped(model: NVBModel) -> None:
    with pytest.raises(ConfigError, match="has 4 latent channels already; latent_channels is 3"):
        widen_latents(model, 3)
