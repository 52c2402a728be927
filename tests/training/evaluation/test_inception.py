from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from training.evaluation.inception import Inception, inception_features, load_inception

MakeWeights = Callable[[str], Path]

# Of torchmetrics 1.9.0's NoTrainInceptionV3 with torch-fidelity 0.4.0 on the same weights and pictures: every 256th
# feature, the lengths of the whole, and names and shapes of its tensors without its classifier.
EVERY_256TH = (
    (2.003899574, 0.016009662, 0.093147971, 2.107948542, 0.393138140, 0.620773256, 0.492460936, 2.690729141),
    (2.128742933, 0.036805119, 0.092940971, 2.159054279, 0.482583672, 0.560073972, 0.593964100, 3.033541918),
    (2.157317162, 0.026910426, 0.085186079, 2.299883842, 0.373275578, 0.589668989, 0.631791174, 3.138283491),
)
LENGTHS = (52.115409482, 56.303332549, 57.064692209)
TENSORS_SHA256 = "e22ffc91a09f7caa1af2ce051c7ddf26018012910da85827a0b035b343f00177"


def test_tensors_are_those_of_the_published_file() -> None:
    state = sorted(Inception().state_dict().items())
    lines = [f"{key} {tuple(value.shape)}" for key, value in state if not key.endswith("num_batches_tracked")]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == TENSORS_SHA256


def test_features_are_torchmetrics(make_weights: MakeWeights) -> None:
    rng = torch.Generator().manual_seed(1)
    pictures = nn.functional.interpolate(torch.rand(3, 3, 8, 8, generator=rng) * 2 - 1, (64, 64), mode="bicubic")
    features = inception_features(load_inception(make_weights("inception")), pictures)
    assert features.shape == (3, 2048)
    torch.testing.assert_close(features[:, ::256], torch.tensor(EVERY_256TH), atol=1e-4, rtol=1e-4)
    assert features.norm(dim=1).tolist() == pytest.approx(LENGTHS, rel=1e-5)
