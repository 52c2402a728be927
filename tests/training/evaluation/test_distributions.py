from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from training.evaluation import distributions
from training.evaluation.distributions import SetFeatures, frechet_distance, kernel_distance


def normal(count: int, width: int, seed: int, mean: float = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=rng) / math.sqrt(width)
    return torch.randn(count, width, generator=rng) @ mixing + mean


@pytest.mark.parametrize(("counts", "width"), [((200, 150), 12), ((9, 14), 30)])
def test_fid_is_the_closed_form(counts: tuple[int, int], width: int) -> None:
    x, y = normal(counts[0], width, 0).numpy(), normal(counts[1], width, 1, 0.3).numpy()
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(a + 1e-13 * np.eye(width)) if min(counts) <= width else scipy.linalg.sqrtm(a)
    # tr (A B)^1/2 = tr (A^1/2 B A^1/2)^1/2, whose argument is symmetric
    traces = np.sqrt(np.clip(np.linalg.eigvalsh(root.real @ b @ root.real), 0, None)).sum()
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(a) + np.trace(b) - 2 * traces
    assert frechet_distance(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(expected, rel=1e-4)


def test_fid_of_a_shift_is_its_square() -> None:
    x = normal(50, 8, 0)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(x, x + 0.5) == pytest.approx(8 * 0.25, rel=1e-5)
    # Scaled about its mean by 2, the standard deviations differ by one of the first's.
    assert frechet_distance(x, 2 * x - x.mean(0)) == pytest.approx(float(x.double().var(0).sum()), rel=1e-5)


@pytest.mark.filterwarnings("ignore:Metric .Kernel Inception Distance. will save")
def test_fid_and_kid_are_torchmetrics() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    class Flat(torch.nn.Module):
        num_features = 12

        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)

    generated, true = normal(60, 12, 0), normal(60, 12, 1, 0.2)
    fid = FrechetInceptionDistance(Flat(), input_img_size=(3, 2, 2), normalize=True)
    kid = KernelInceptionDistance(Flat(), subsets=1, subset_size=60)  # a subset of all is all
    for metric in (fid, kid):
        metric.update(generated.view(-1, 3, 2, 2), real=False)
        metric.update(true.view(-1, 3, 2, 2), real=True)
    assert frechet_distance(generated, true) == pytest.approx(float(fid.compute()), rel=1e-4)
    [mine] = [kernel_distance([SetFeatures(generated, true)])]
    assert mine.value == pytest.approx(float(kid.compute()[0]), rel=1e-3)
    assert (mine.low, mine.high) == (None, None)


def direct_kid(x: Tensor, y: Tensor) -> float:
    """As it is written down: a loop over all pairs."""

    def kernel(a: Tensor, b: Tensor) -> float:
        return (float(a.double() @ b.double()) / len(a) + 1) ** 3

    n = len(x)
    pairs = [(i, j) for i in range(n) for j in range(n)]
    within = sum(kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in pairs if i != j)
    return within / (n * (n - 1)) - 2 * sum(kernel(x[i], y[j]) for i, j in pairs) / n**2


def test_kid_and_its_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributions, "KERNEL_ROWS", 5)  # several blocks, cutting through identities
    sizes = (2, 3, 4, 3)
    identities = [SetFeatures(normal(size, 6, i, 0.5), normal(size, 6, 10 + i)) for i, size in enumerate(sizes)]

    def direct(chosen: list[SetFeatures]) -> float:
        return direct_kid(*(torch.cat([getattr(item, name) for item in chosen]) for name in ("generated", "true")))

    found = kernel_distance(identities)
    assert found.value == pytest.approx(direct(identities))
    without = np.array([direct(identities[:i] + identities[i + 1 :]) for i in range(4)])
    error = math.sqrt(3 / 4 * np.square(without - without.mean()).sum())
    assert found.low == pytest.approx(found.value - 1.96 * error)
    assert found.high == pytest.approx(found.value + 1.96 * error)


@pytest.mark.parametrize(
    ("sizes", "has_interval"), [((1, 1), False), ((1, 5), False), ((2, 2), True), ((1, 1, 1), True)]
)
def test_kid_has_an_interval_where_leaving_one_out_leaves_two(sizes: tuple[int, ...], has_interval: bool) -> None:
    found = kernel_distance([SetFeatures(normal(size, 6, i), normal(size, 6, 10 + i)) for i, size in enumerate(sizes)])
    assert math.isfinite(found.value)
    if has_interval:
        assert found.low is not None
        assert found.high is not None
        assert found.low < found.value < found.high
    else:
        assert (found.low, found.high) == (None, None)


def test_kid_of_one_distribution_is_about_nothing() -> None:
    rng = torch.Generator().manual_seed(0)
    same = [SetFeatures(*torch.randn(2, 4, 10, generator=rng)) for _ in range(60)]
    found = kernel_distance(same)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0 < found.high
    apart = kernel_distance([SetFeatures(item.generated + 0.4, item.true) for item in same])
    assert apart.low is not None
    assert apart.low > 0


def test_features_survive_a_file(tmp_path: Path) -> None:
    features = SetFeatures(normal(2, 5, 0), normal(2, 5, 1).T.contiguous().T)
    features.save(tmp_path / "01000000.safetensors")
    again = SetFeatures.load(tmp_path / "01000000.safetensors")
    assert torch.equal(again.generated, features.generated)
    assert torch.equal(again.true, features.true)
