from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nvb_core.autoencoder import Autoencoder
from nvb_core.config import MINI, VAEConfig, tiny_config

TINY = tiny_config().vae
TINY_MINI = replace(MINI.vae, block_out_channels=(8, 16), norm_groups=4)


def build(config: VAEConfig) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(config).requires_grad_(False).eval()


def images(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(("config", "channels"), [(TINY, 4), (TINY_MINI, 16)], ids=["tiny", "mini"])
def test_shapes(config: VAEConfig, channels: int) -> None:
    autoencoder = build(config)
    latents = autoencoder.encode(images())
    assert latents.shape == (2, channels, 4, 4)
    assert autoencoder.decode(latents).shape == (2, 3, 32, 32)
    assert autoencoder.preview(latents).shape == (2, 3, 4, 4)


def test_latents_are_scaled_like_stable_diffusions_before_statistics_are_measured() -> None:
    autoencoder = build(TINY)
    torch.testing.assert_close(autoencoder.encode(images()), autoencoder.encode_raw(images()) * 0.18215)


def test_statistics_normalise_each_channel() -> None:
    autoencoder = build(TINY)
    raw = autoencoder.encode_raw(images(4))
    autoencoder.latent_mean.copy_(raw.mean(dim=(0, 2, 3)))
    autoencoder.latent_std.copy_(raw.std(dim=(0, 2, 3)))
    latents = autoencoder.encode(images(4))
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(4))
    torch.testing.assert_close(autoencoder.decode(latents), autoencoder.decode_raw(raw), rtol=0, atol=1e-5)


def test_statistics_stay_float32_in_a_half_precision_model() -> None:
    autoencoder = build(TINY)
    exact = autoencoder.decode(autoencoder.encode(images()))
    autoencoder.kl.to(torch.bfloat16)  # what load_model does: buffers aren't converted
    decoded = autoencoder.decode(autoencoder.encode(images().bfloat16()).bfloat16())
    assert decoded.dtype == torch.bfloat16
    assert (decoded.float() - exact).abs().mean() < 0.02


def test_preview_is_a_clamped_linear_map() -> None:
    autoencoder = build(TINY)
    autoencoder.preview_weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 9]]))
    autoencoder.preview_bias.copy_(torch.tensor([0.5, 0, 0]))
    latents = torch.tensor([0.25, -0.25, 7.0, 3.0]).reshape(1, 4, 1, 1)
    for dtype in (torch.float32, torch.bfloat16):
        assert autoencoder.preview(latents.to(dtype)).flatten().tolist() == [0.75, -0.5, 1.0]


def test_pixels_are_folded_into_channels() -> None:
    autoencoder = build(TINY_MINI)
    assert autoencoder.kl.encoder.conv_in.in_channels == 48
    assert autoencoder.kl.decoder.conv_out.out_channels == 48


def test_encoding_is_deterministic() -> None:
    autoencoder = build(TINY)
    assert torch.equal(autoencoder.encode(images()), autoencoder.encode(images()))
