from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nvb_core.errors import CheckpointError
from training.judges.judges import Judges, fitted, read_judges, save_judges
from training.judges.network import JudgeNetwork

from .test_network import SMALL


@pytest.fixture
def network() -> JudgeNetwork:
    torch.manual_seed(0)
    return JudgeNetwork(SMALL)


def test_file_round_trip_and_readings_are_each_pictures_own(network: JudgeNetwork, tmp_path: Path) -> None:
    save_judges(network, tmp_path / "judges.safetensors", {"steps": 3})
    judges = read_judges(tmp_path / "judges.safetensors")
    images = torch.rand(3, 3, 48, 48) * 2 - 1
    together = judges.read(images)
    assert torch.allclose(together.embeddings.norm(dim=1), torch.ones(3))
    for i in range(3):
        alone = judges.read(images[i : i + 1])
        assert torch.allclose(alone.embeddings[0], together.embeddings[i], atol=1e-5)
        assert torch.allclose(alone.angles_deg[0], together.angles_deg[i], atol=1e-3)
    mirrored = judges.read(images.flip(-1))
    assert torch.allclose(mirrored.embeddings, together.embeddings, atol=1e-5)
    assert torch.allclose(mirrored.angles_deg, together.angles_deg * torch.tensor([-1.0, 1.0, -1.0]), atol=1e-3)
    exact = Judges(network).read(images)
    assert torch.allclose(exact.angles_deg, together.angles_deg, atol=0.1)  # float16 weights


def test_pictures_are_fitted_to_the_judges() -> None:
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    assert fitted(images, 32) is images
    assert fitted(images, 16).shape == (1, 3, 16, 16)
    flat = torch.full((1, 3, 50, 50), 0.3)
    assert torch.allclose(fitted(flat, 32), torch.full((1, 3, 32, 32), 0.3), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": "nvb-face"}, "format 'nvb-face' version '1', expected 'nvb-face-judges'"),
        ({"version": "2"}, "version '2'"),
        ({"config": "[]"}, "header 'config' doesn't describe judges"),
        ({"config": json.dumps({"sizes": 3})}, "header 'config' doesn't describe judges"),
        ({"config": json.dumps({"size": 64, "widths": [8, 16], "blocks": [1, 1], "embedding": 4})}, "has shape"),
        ({"config": json.dumps({"size": 32, "widths": [8, 16], "blocks": [1, 2], "embedding": 4})}, "is unexpected"),
    ],
)
def test_another_file_is_refused(change: dict[str, str], complaint: str, network: JudgeNetwork, tmp_path: Path) -> None:
    from safetensors import safe_open

    path = tmp_path / "judges.safetensors"
    save_judges(network, path, {})
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    save_file(load_file(path), path, metadata=header | change)
    with pytest.raises(CheckpointError, match=complaint) as error:
        read_judges(path)
    assert str(path) in str(error.value)
