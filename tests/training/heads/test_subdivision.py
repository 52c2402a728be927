from __future__ import annotations

import numpy as np

from training.heads.subdivision import catmull_clark

CUBE = np.array(
    [[-1, -1, -1], [1, -1, -1], [1, 1, -1], [-1, 1, -1], [-1, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]], float
)
CUBE_QUADS = np.array([[0, 3, 2, 1], [4, 5, 6, 7], [0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7]])


def test_cube_moves_to_the_closed_form() -> None:
    fine = catmull_clark(CUBE_QUADS, 8)
    points = fine.matrix @ CUBE
    assert points.shape == (8 + 12 + 6, 3)
    np.testing.assert_allclose(points[:8], CUBE * 5 / 9, atol=1e-12)  # (F + 2 R) / 3 at valence three
    edges = np.sort(np.abs(points[8:20]), 1)
    np.testing.assert_allclose(edges, np.tile([0, 0.75, 0.75], (12, 1)), atol=1e-12)
    np.testing.assert_allclose(np.sort(np.abs(points[20:]), 1), np.tile([0, 0, 1], (6, 1)), atol=1e-12)


def test_a_lone_quad_follows_its_boundary_curve() -> None:
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]])
    points = catmull_clark(np.array([[0, 1, 2, 3]]), 4).matrix @ square
    np.testing.assert_allclose(points[0], [0.125, 0.125])
    np.testing.assert_allclose(np.sort(points[4:8], 0), np.sort([[0.5, 0], [1, 0.5], [0.5, 1], [0, 0.5]], 0))
    np.testing.assert_allclose(points[8], [0.5, 0.5])


def test_affine_maps_pass_through_and_quads_keep_their_orientation() -> None:
    fine = catmull_clark(CUBE_QUADS, 8)
    np.testing.assert_allclose(fine.matrix.sum(1), 1)
    assert np.bincount(fine.parent).tolist() == [4] * 6
    points = fine.matrix @ CUBE
    a, b, c, d = (points[fine.quads[:, i]] for i in range(4))
    outward = (np.cross(c - a, d - b) * (a + b + c + d)).sum(1)
    coarse = CUBE[CUBE_QUADS]
    expected = (np.cross(coarse[:, 2] - coarse[:, 0], coarse[:, 3] - coarse[:, 1]) * coarse.sum(1)).sum(1)
    assert (np.sign(outward) == np.sign(expected)[fine.parent]).all()
