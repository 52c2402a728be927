from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.judges.judges import Readings
from training.judges.people import HELD_OUT_SEED, People, render_people
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


def test_shipped_judges_read_people_they_have_not_seen(tmp_path: Path) -> None:
    """Loosely: the card's figures are of 200 people, these are of six."""
    for _ in render_people(tmp_path, People(HELD_OUT_SEED, 6), 2):
        pass
    found = verify(Options(tmp_path))
    assert (found.people, found.pictures) == (6, 72)
    assert found.auc_same_hair > 0.95
    assert found.yaw_error_deg < 3.5
    assert found.cosine_same > found.cosine_other + 0.3
