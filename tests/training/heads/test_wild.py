from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nvb_core.cameras import Cameras
from training.heads.basis import load_basis
from training.heads.expression import NEUTRAL
from training.heads.identity import sample_identity, sample_wild_identity
from training.heads.look import Paint
from training.heads.patch import Material
from training.heads.render import render
from training.heads.reprojection import skin_psnr
from training.heads.scene import Scene, build_scene
from training.heads.wild import Bend, Similarity, sample_bend, sample_paint

PLACES = np.random.default_rng(0).uniform(-0.2, 0.2, (50, 3))
SEED = 9


@pytest.fixture(scope="module")
def scene() -> Scene:
    return build_scene(sample_wild_identity(SEED), NEUTRAL, 64)


def test_one_wave_shears_as_it_should() -> None:
    bend = Bend(np.array([[0.0, 0.01, 0.0]]), np.array([[20.0, 0.0, 0.0]]), np.array([0.0]))
    np.testing.assert_allclose(bend.points(np.array([[np.pi / 40, 1, 2]])), [[np.pi / 40, 1.01, 2]])
    # at x = 0 the surface y = 0 becomes y = .2 x, whose normal is (-.2, 1, 0); walls across x stay as they are
    normals = bend.normals(np.zeros((2, 3)), np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))
    np.testing.assert_allclose(normals, [np.array([-0.2, 1, 0]) / np.hypot(0.2, 1), [1, 0, 0]], atol=1e-12)


@given(seed=st.integers(0, 2**32 - 1))
def test_a_bend_keeps_neighbours_apart_and_normals_upright(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bend = sample_bend(rng)
    frames, _ = np.linalg.qr(rng.normal(size=(50, 3, 3)))
    step, across = 1e-6 * frames[:, 0], 1e-6 * frames[:, 1]
    moved = bend.points(PLACES + step) - bend.points(PLACES)
    assert (np.einsum("ni,ni->n", moved, step) > 0).all()  # strains below 1: nothing folds over
    bent = bend.normals(PLACES, np.cross(frames[:, 0], frames[:, 1]))
    surface = np.cross(moved, bend.points(PLACES + across) - bend.points(PLACES))
    surface /= np.linalg.norm(surface, axis=1, keepdims=True)
    np.testing.assert_allclose(bent, surface, atol=1e-4)


@given(seed=st.integers(0, 2**32 - 1))
def test_the_similarity_between_a_shape_and_its_copy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))
    made = Similarity(float(rng.uniform(0.5, 2)), rotation, rng.normal(size=3))
    found = Similarity.between(PLACES, made.points(PLACES))
    assert found.scale == pytest.approx(made.scale)
    np.testing.assert_allclose(found.rotation, rotation, atol=1e-9)
    np.testing.assert_allclose(found.shift, made.shift, atol=1e-9)


def test_a_mirrored_shape_is_not_mirrored_back() -> None:
    found = Similarity.between(PLACES, PLACES * [-1, 1, 1])
    assert np.linalg.det(found.rotation) == pytest.approx(1)


def test_a_seed_is_a_wild_head() -> None:
    person, tame = sample_wild_identity(SEED), sample_identity(SEED)
    assert person.look.paint == sample_wild_identity(SEED).look.paint != Paint()
    assert person.changes == sample_wild_identity(SEED).changes
    assert person.bend is not None
    assert tame.bend is None
    assert tame.look.paint == Paint()
    assert person.phenotype == tame.phenotype
    assert person.look.skin == tame.look.skin


def test_left_and_right_differ() -> None:
    def lopsided(changes: dict[str, float]) -> float:
        pairs = [(value, changes["r-" + name[2:]]) for name, value in changes.items() if name.startswith("l-")]
        return float(np.mean([abs(left - right) for left, right in pairs]))

    wild, tame = (lopsided(dict(make(SEED).changes)) for make in (sample_wild_identity, sample_identity))
    assert wild > 3 * tame
    assert all(-1 <= value <= 1 for value in sample_wild_identity(SEED).changes.values())


def test_paints_are_of_every_kind() -> None:
    paints = [sample_paint(np.random.default_rng(seed)) for seed in range(200)]
    for name, share in (("patch_amount", 0.6), ("line_amount", 0.7), ("grain_amount", 0.7)):
        assert np.mean([getattr(paint, name) > 0 for paint in paints]) == pytest.approx(share, abs=0.12)
    colors = np.array([paint.patches for paint in paints])
    assert colors.min() > 0
    assert colors.max() < 1


def test_wild_heads_are_sound_and_look_ahead() -> None:
    skull = load_basis().weights[:, 4].numpy() > 0.95
    for seed in range(20, 26):
        wild = build_scene(sample_wild_identity(seed), NEUTRAL, 32)
        assert wild.is_sound()
        straight = build_scene(replace(wild.identity, bend=None), NEUTRAL, 32)
        points, rest = (s.patches[0].caster_points[skull] for s in (wild, straight))
        np.testing.assert_allclose(points.mean(0), rest.mean(0), atol=1e-6)
        turn = Similarity.between(points, rest).rotation
        np.testing.assert_allclose(turn, np.eye(3), atol=1e-6)
        assert 0.01 < np.abs(points - rest).max() < 0.5


def test_paint_is_seen_and_moves_with_the_head(scene: Scene) -> None:
    look = replace(scene.identity.look, paint=Paint())
    bare = build_scene(replace(scene.identity, look=look), NEUTRAL, 64)
    painted, plain = (render(s, Cameras.from_angles(0.0), 64, 4) for s in (scene, bare))
    assert torch.equal(painted.segmentation, plain.segmentation)
    difference = (painted.rgb - plain.rgb).abs().amax(1)
    assert difference[painted.segmentation == Material.SKIN].mean() > 0.05
    assert difference[painted.alpha == 0].max() == 0
    assert skin_psnr(scene, Cameras.from_angles([10.0, 15.0]), 128, 4) >= 26
