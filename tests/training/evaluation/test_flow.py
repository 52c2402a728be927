from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training.evaluation.benchmark import Benchmark
from training.evaluation.flow import flow_agreement


def texture(seed: int, size: int = 72) -> Tensor:
    """(3, size, size) in [-1, 1], smooth enough to follow."""
    noise = torch.rand(1, 3, size // 6, size // 6, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return F.interpolate(noise, size=(size, size), mode="bicubic").clamp(-1, 1)[0]


def test_a_shift_is_followed() -> None:
    wide = texture(0)
    found = flow_agreement(wide[:, 4:68, 4:68], wide[:, 4:68, 2:66])  # moved by two pixels
    assert found.psnr is not None
    assert found.psnr > 35
    assert found.share > 0.9


def test_equal_pictures_agree_everywhere() -> None:
    image = texture(1, 64)
    found = flow_agreement(image, image)
    assert found.share == 1.0
    assert found.psnr == 100.0


def test_unrelated_pictures_hardly_agree() -> None:
    found = flow_agreement(texture(2, 64), texture(3, 64))
    assert found.share < 0.35
    assert found.psnr is None or found.psnr < 25


def test_other_colours_lower_the_psnr_alone() -> None:
    image = texture(4, 64)
    found = flow_agreement(image, (image + 0.2).clamp(-1, 1))
    assert found.share > 0.5  # flow takes a part of the change of brightness for motion
    assert found.psnr is not None
    assert found.psnr == pytest.approx(20, abs=1.5)  # 20 lg(2 / 0.2)


def test_rendered_neighbours_agree(heads: Benchmark) -> None:
    first, second = heads.load(1_000_000).pair
    found = flow_agreement(first.image, second.image)
    assert found.psnr is not None
    assert found.psnr > 20
    assert found.share > 0.5
