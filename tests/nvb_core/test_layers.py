from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.nn import Conv2d

from nvb_core.layers import (
    TIME_CHANNELS,
    Attention,
    FeedForward,
    ModulatedNorm,
    PositionedConv,
    TimeEmbedding,
    grid_position,
    timestep_embedding,
)

TIMESTEPS = torch.tensor([0, 1, 20, 500, 981, 999])


@pytest.mark.parametrize("channels", [TIME_CHANNELS, 320, 8])
def test_timestep_embedding_is_that_of_diffusers(channels: int) -> None:
    from diffusers.models.embeddings import get_timestep_embedding

    expected = get_timestep_embedding(TIMESTEPS, channels, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(timestep_embedding(TIMESTEPS, channels), expected, rtol=0, atol=1e-6)


def test_timestep_embedding_closed_form() -> None:
    value = timestep_embedding(torch.tensor([3]), 4)[0]
    angles = torch.tensor([3.0, 3.0 / 100])  # 10000^0, 10000^-1/2
    torch.testing.assert_close(value, torch.cat([angles.cos(), angles.sin()]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_time_embedding_has_the_parameters_dtype(dtype: torch.dtype) -> None:
    value = TimeEmbedding(12).to(dtype)(TIMESTEPS)
    assert value.shape == (6, 12)
    assert value.dtype == dtype
    assert len(value.unique(dim=0)) == 6


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_is_softmax_of_scaled_products(heads: int) -> None:
    torch.manual_seed(0)
    attention = Attention(8, heads)
    x, context = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    q, (k, v) = attention.to_q(x), attention.to_kv(context).chunk(2, dim=-1)
    per_head = []
    for h in range(heads):
        part = slice(h * 8 // heads, (h + 1) * 8 // heads)
        weights = (q[..., part] @ k[..., part].mT / (8 / heads) ** 0.5).softmax(dim=-1)
        per_head.append(weights @ v[..., part])
    torch.testing.assert_close(attention(x, context), attention.to_out(torch.cat(per_head, dim=-1)))


def test_attention_without_context_attends_to_itself() -> None:
    attention, x = Attention(8, 2), torch.randn(2, 3, 8)
    torch.testing.assert_close(attention(x), attention(x, x))


def test_feed_forward_widens_four_times() -> None:
    layer = FeedForward(6)
    assert layer(torch.randn(2, 3, 6)).shape == (2, 3, 6)
    assert layer[0].out_features == 24


def test_modulation_is_the_identity_before_training() -> None:
    x, condition = torch.randn(2, 5, 8), torch.randn(2, 8)
    assert torch.equal(ModulatedNorm(8)(x, condition), F.layer_norm(x, (8,)))


def test_modulation_scales_and_shifts_each_item() -> None:
    layer = ModulatedNorm(4)
    layer.to_scale_shift.weight.data.normal_()
    x, condition = torch.randn(2, 5, 4), torch.randn(2, 4)
    output = layer(x, condition)
    for i in range(2):
        scale, shift = (layer.to_scale_shift.weight @ F.silu(condition[i])).split(4)
        torch.testing.assert_close(output[i], F.layer_norm(x[i], (4,)) * (1 + scale) + shift)


def test_grid_position_closed_form() -> None:
    code = grid_position(9, 2, 4).unflatten(0, (2, 4))  # 2 frequencies for each of 2 axes, one channel is left over
    slow, fast = (3.5 * math.pi / 4, 3.5 * 2 * math.pi / 3)  # of the last of 4 cells
    expected = torch.tensor([math.cos(slow), math.cos(fast), math.sin(slow), math.sin(fast)])
    for row in range(2):
        torch.testing.assert_close(code[row, 3, 4:8], expected)
    assert torch.equal(code[..., 8], torch.zeros(2, 4))


@pytest.mark.parametrize("sizes", [(12,), (8, 8), (4, 3, 5)])
def test_grid_position_tells_near_from_far(sizes: tuple[int, ...]) -> None:
    code = grid_position(256, *sizes)
    cells = torch.stack(torch.meshgrid(*(torch.arange(n) for n in sizes), indexing="ij"), dim=-1).flatten(0, -2)
    distance = torch.cdist(cells.double(), cells.double())
    similarity = (code @ code.T).double()
    near, far = (distance == 1), (distance >= 3)
    assert (similarity.diagonal().min() > similarity[near]).all()
    assert similarity[near].min() > similarity[far].max()


def test_positioned_conv_adds_its_position() -> None:
    layer = PositionedConv(Conv2d(3, 8, 3, padding=1), 5)
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(layer(x) - layer.conv(x), layer.position.expand(2, -1, -1, -1))
    torch.testing.assert_close(layer.position[:, 3, 1], grid_position(8, 5, 5)[3 * 5 + 1])
    assert layer.position.requires_grad
