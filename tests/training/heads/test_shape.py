from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from training.heads.basis import load_basis
from training.heads.shape import Phenotype, blend_identity, phenotype_weights, pose, rotation

AVERAGE = Phenotype(ancestry=(0.2, 0.3, 0.5), gender=0.3, age=0.6, muscle=0.4, weight=0.55, proportions=0.7)


def test_weights_of_each_block_of_targets_sum_to_one() -> None:
    weights = phenotype_weights(load_basis(), AVERAGE)
    sizes = (3 * 2 * 3, 2 * 3 * 3 * 3, 2 * 3 * 3 * 3 * 2, 2 * 3 * 3 * 3 * 2)  # ancestry, universal, height, proportions
    for block in weights.split(sizes):
        torch.testing.assert_close(block.sum(), torch.tensor(1.0))


def test_a_pure_person_takes_one_target_of_each_block() -> None:
    pure = Phenotype(ancestry=(0, 1, 0), gender=1, age=0.5, muscle=0.5, weight=1, proportions=0, height=1)
    weights = phenotype_weights(load_basis(), pure)
    assert (weights == 1).sum() == 4
    assert (weights == 0).sum() == len(weights) - 4


def test_opposite_changes_take_opposite_ends() -> None:
    basis = load_basis()
    base, _ = blend_identity(basis, AVERAGE, {})
    up, _ = blend_identity(basis, AVERAGE, {"nose-trans-up": 0.5})
    down, _ = blend_identity(basis, AVERAGE, {"nose-trans-up": -0.5})
    moved = (up - base)[:, 1] > 1e-3
    assert moved.any()
    assert (down - base)[moved, 1].mean() < -1e-4


def test_old_and_young_differ() -> None:
    basis = load_basis()
    young, _ = blend_identity(basis, replace(AVERAGE, age=0.0), {})
    old, _ = blend_identity(basis, replace(AVERAGE, age=1.0), {})
    assert (young - old).abs().max() > 0.01


def test_bending_the_neck_moves_the_body_and_not_the_head() -> None:
    basis = load_basis()
    neutral, joints = blend_identity(basis, AVERAGE, {})
    still = pose(basis, neutral, joints, {}, {})
    bent = pose(basis, neutral, joints, {}, {"head": (0.2, 0.3, -0.1), "neck02": (0.1, 0.2, 0.1)})
    head = basis.weights[:, 4].numpy() > 0.999
    body = basis.weights[:, 0].numpy() > 0.999
    np.testing.assert_allclose(bent[head], still[head], atol=1e-4)  # a weight may be 0.999
    assert np.linalg.norm(bent[body] - still[body], axis=1).min() > 0.005
    np.testing.assert_allclose(still, neutral.numpy(), atol=1e-5)


def test_the_body_turns_by_the_inverse_of_the_bend() -> None:
    """A head turned to its left is, seen from the head, a body turned to its right."""
    basis = load_basis()
    neutral, joints = blend_identity(basis, AVERAGE, {})
    bent = pose(basis, neutral, joints, {}, {"head": (0.0, 0.4, 0.0)})
    body = basis.weights[:, 0].numpy() > 0.999
    turned = neutral.numpy()[body] - joints[4].numpy()
    expected = turned @ rotation((0.0, 0.4, 0.0)).numpy() + joints[4].numpy()  # v @ R is the inverse of R, times v
    np.testing.assert_allclose(bent[body], expected, atol=1e-5)


def test_rotation_vectors() -> None:
    quarter = rotation((0.0, math.pi / 2, 0.0))
    torch.testing.assert_close(
        quarter @ torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 0.0]), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        rotation((0.3, -0.2, 0.5)) @ rotation((-0.3, 0.2, -0.5)), torch.eye(3), atol=1e-6, rtol=0
    )


def test_actions_open_the_jaw() -> None:
    basis = load_basis()
    neutral, joints = blend_identity(basis, AVERAGE, {})
    closed = pose(basis, neutral, joints, {}, {})
    opened = pose(basis, neutral, joints, {"jawOpen": 1.0}, {})
    lips = basis.masks["lips"] > 0.5
    assert (closed - opened)[lips, 1].max() > 0.01
