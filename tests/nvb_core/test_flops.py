from __future__ import annotations

import pytest
import torch
from torch.nn import Conv2d, Linear

from nvb_core.config import SD21, tiny_config
from nvb_core.flops import FlopCounts, count, count_flops
from nvb_core.layers import Attention

GIGA, TERA = 10**9, 10**12


@pytest.fixture(scope="module")
def sd21() -> FlopCounts:
    return count_flops(SD21)


def test_closed_form_of_a_linear_layer() -> None:
    with torch.device("meta"):
        layer, x = Linear(7, 5).requires_grad_(False), torch.empty(3, 7)
        assert count(lambda: layer(x)) == 2 * 3 * 7 * 5


def test_closed_form_of_a_convolution() -> None:
    with torch.device("meta"):
        layer = Conv2d(4, 6, 3, stride=2, padding=1).requires_grad_(False)
        x = torch.empty(2, 4, 10, 10)
        assert count(lambda: layer(x)) == 2 * 2 * 6 * 5 * 5 * 4 * 3 * 3


def test_closed_form_of_attention() -> None:
    width, n, m = 8, 5, 9
    with torch.device("meta"):
        attention = Attention(width, 2).requires_grad_(False)
        x, context = torch.empty(1, n, width), torch.empty(1, m, width)
        projections = n * width**2 + m * 2 * width**2 + n * width**2
        assert count(lambda: attention(x, context)) == 2 * (projections + 2 * n * m * width)


def test_paper_scale(sd21: FlopCounts) -> None:
    assert sd21.encoder / 2 == pytest.approx(106 * GIGA, rel=0.02)
    assert sd21.unet == pytest.approx(0.82 * TERA, rel=0.02)
    assert sd21.vae_decode == pytest.approx(2.5 * TERA, rel=0.02)
    assert sd21.aggregator < 0.1 * sd21.unet


def test_sums(sd21: FlopCounts) -> None:
    assert sd21.per_face_step == sd21.encoder + sd21.volume
    assert sd21.per_view_step == sd21.aggregator + sd21.unet
    one = sd21.total(views=1, steps=1)
    assert one == 2 * sd21.encoder + sd21.camera_predictor + sd21.volume + sd21.per_view_step + sd21.vae_decode
    assert sd21.total(views=9, steps=50) - sd21.total(views=8, steps=50) == 50 * sd21.per_view_step + sd21.vae_decode
    assert sd21.total(views=8, steps=51) - sd21.total(views=8, steps=50) == sd21.per_face_step + 8 * sd21.per_view_step
    assert sd21.total(views=8, steps=50, faces=3) == 3 * sd21.total(views=8, steps=50)


def test_every_stage_counts() -> None:
    counts = count_flops(tiny_config())
    assert min(vars(counts).values()) > 0
