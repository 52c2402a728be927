from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.data import FaceFolder, read_index, to_float
from training.evaluation.embedding import EmbeddingOptions
from training.judges.judges import Readings
from training.judges.people import HELD_OUT_SEED, SIZE, People, render_people, scene_of
from training.judges.verify import Options, accuracy, auc, verify

numbers = st.lists(st.integers(0, 5).map(float), min_size=1, max_size=12)


@given(numbers, numbers)
def test_auc_is_the_share_of_ordered_pairs(positive: list[float], negative: list[float]) -> None:
    pairs = [1.0 if p > n else 0.5 if p == n else 0.0 for p in positive for n in negative]
    assert auc(np.array(positive), np.array(negative)) == pytest.approx(np.mean(pairs))


def test_perfect_embeddings_and_known_angle_errors() -> None:
    people = [name for name in "abc" for _ in range(6)]
    scenes = [0, 0, 1, 1, 2, 2] * 3
    embeddings = torch.eye(3).repeat_interleave(6, 0)
    true = torch.zeros(18, 3)
    true[:, 0] = torch.tensor([-45.0, 0.0, 0.0, 10.0, 45.0, 0.0]).repeat(3)
    found = accuracy(Readings(embeddings, true + torch.tensor([2.0, -1.0, 0.5])), people, scenes, true)
    assert (found.people, found.pictures, found.auc) == (3, 18, 1.0)
    assert (found.auc_same_hair, found.auc_other_hair, found.accepted_at_1_percent) == (1.0, 1.0, 1.0)
    assert set(found.auc_by_yaw.values()) == {1.0}
    assert (found.cosine_same, found.cosine_other) == (1.0, 0.0)
    assert (found.yaw_error_deg, found.pitch_error_deg, found.roll_error_deg) == pytest.approx((2.0, 1.0, 0.5))


def test_one_scene_is_no_proof() -> None:
    """Pairs of one person must come from different scenes: alike within one alone, people aren't told apart."""
    scenes = [0, 0, 1, 1] * 2
    people = ["a"] * 4 + ["b"] * 4
    embeddings = torch.eye(2)[torch.tensor(scenes)]  # reads the scene
    found = accuracy(Readings(embeddings, torch.zeros(8, 3)), people, scenes, torch.zeros(8, 3))
    assert found.auc < 0.5
    assert found.cosine_same == 0.0


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """72 pictures of six people."""
    folder = tmp_path_factory.mktemp("held-out")
    for _ in render_people(folder, People(HELD_OUT_SEED, 6), 2):
        pass
    return folder


def test_shipped_judges_read_people_they_have_not_seen(held_out: Path) -> None:
    """Loosely: the card's figures are of 200 people, these are of six."""
    found = verify(Options(held_out))
    assert (found.people, found.pictures) == (6, 72)
    assert found.auc_same_hair > 0.95
    assert found.yaw_error_deg < 3.5
    assert found.cosine_same > found.cosine_other + 0.3


def test_somebody_elses_network_is_measured_on_the_same_pairs(held_out: Path, make_onnx: Callable[..., Path]) -> None:
    """One that gives the picture back: its cosines are those of the pictures, the angles still our judge's."""
    ours = verify(Options(held_out))
    network = make_onnx(["n", 3, 96, 96])
    found = verify(Options(held_out, identity=EmbeddingOptions(network, embedding_crop="whole")))
    assert found.yaw_error_deg == ours.yaw_error_deg
    faces = FaceFolder.load(held_out, SIZE)
    pictures = to_float(faces.sources[0].images(torch.arange(72))).flatten(1)
    index = read_index(held_out)
    people, scenes = index.subjects, [scene_of(path) for path in index.paths]
    cosines = torch.nn.functional.normalize(pictures.double(), dim=1)
    cosines = cosines @ cosines.T
    own = [
        float(cosines[i, j]) for i in range(72) for j in range(i) if people[i] == people[j] and scenes[i] != scenes[j]
    ]
    assert found.cosine_same == pytest.approx(sum(own) / len(own), abs=1e-4)
    assert found.auc < ours.auc
