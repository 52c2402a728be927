from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from nvb_core.config import MINI, EncoderConfig, tiny_config
from nvb_core.encoder import ImageEncoder, TimeResBlock

TINY = tiny_config().encoder
TINY_MINI = replace(MINI.encoder, base_channels=8, norm_groups=4, out_channels=16)


def residual_blocks(encoder: ImageEncoder) -> list[TimeResBlock]:
    return [m for m in encoder.modules() if isinstance(m, TimeResBlock)]


@pytest.mark.parametrize("config", [TINY, TINY_MINI], ids=["tiny", "mini"])
def test_shape(config: EncoderConfig) -> None:
    features = ImageEncoder(config)(torch.randn(2, 3, 64, 32), torch.tensor([3, 4]))
    assert features.shape == (2, 16, 64 // config.downscale, 32 // config.downscale)
    assert features.isfinite().all()


def test_layout_of_paper_scale() -> None:
    with torch.device("meta"):
        encoder = ImageEncoder(EncoderConfig())
    assert len(residual_blocks(encoder)) == 6 * 2 + 2
    assert [len(level.attentions) for level in encoder.levels] == [0, 0, 0, 0, 0, 2]
    strided = [m for m in encoder.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
    assert len(strided) == 5
    assert not [m for m in encoder.modules() if "Pool" in type(m).__name__]


def test_timestep_enters_every_residual_block() -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder(TINY)
    inputs: dict[TimeResBlock, torch.Tensor] = {}
    for block in residual_blocks(encoder):
        block.register_forward_pre_hook(lambda module, args: inputs.__setitem__(module, args[0]))
    encoder(torch.randn(1, 3, 32, 32), torch.tensor([10]))
    other = encoder.time(torch.tensor([900]))
    hooked = dict(inputs)
    assert len(hooked) == 4 + 2
    for block, x in hooked.items():
        assert not torch.allclose(block(x, encoder.time(torch.tensor([10]))), block(x, other), atol=1e-4)


def test_gradients_reach_every_parameter() -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder(TINY)
    encoder(torch.randn(2, 3, 32, 32), torch.tensor([10, 700])).square().sum().backward()
    dead = [name for name, p in encoder.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert dead == []


def test_items_of_a_batch_are_independent() -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder(TINY).requires_grad_(False)
    images, timesteps = torch.randn(2, 3, 32, 32), torch.tensor([10, 700])
    both = encoder(images, timesteps)
    for i in range(2):
        torch.testing.assert_close(encoder(images[i : i + 1], timesteps[i : i + 1]), both[i : i + 1])


def test_half_precision() -> None:
    encoder = ImageEncoder(TINY).to(torch.bfloat16)
    assert encoder(torch.randn(1, 3, 32, 32).bfloat16(), torch.tensor([5])).dtype == torch.bfloat16
