"""One Catmull-Clark step as a sparse matrix, so that any blend of a mesh subdivides with one product."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


class Subdivision(NamedTuple):
    matrix: csr_matrix  # (V2, V): fine vertices = matrix @ coarse vertices
    quads: np.ndarray  # (4 F, 4) int
    parent: np.ndarray  # (4 F,) the coarse quad each fine quad came from


def catmull_clark(quads: np.ndarray, vertex_count: int) -> Subdivision:
    """Subdivide quads (F, 4) once; boundaries follow the cubic B-spline rule (Catmull and Clark 1978).

    The fine vertices are ordered: moved coarse vertices, edge points, face points.
    """
    import scipy.sparse as sp

    F, V = len(quads), vertex_count
    edges = np.sort(np.stack([quads, np.roll(quads, -1, 1)], -1).reshape(-1, 2), 1)
    unique, edge_of, faces_at = np.unique(edges, axis=0, return_inverse=True, return_counts=True)
    edge_of, E = edge_of.reshape(F, 4), len(unique)
    face_ids = np.repeat(np.arange(F), 4)

    face_points = sp.csr_matrix((np.full(F * 4, 0.25), (face_ids, quads.ravel())), (F, V))
    edge_faces = sp.csr_matrix((np.ones(F * 4), (edge_of.ravel(), face_ids)), (E, F))
    midpoints = sp.csr_matrix((np.full(E * 2, 0.5), (np.repeat(np.arange(E), 2), unique.ravel())), (E, V))
    boundary = sp.diags((faces_at == 1).astype(float))
    inner = sp.diags((faces_at != 1).astype(float))
    edge_points = inner @ (0.5 * midpoints + 0.25 * (edge_faces @ face_points)) + boundary @ midpoints

    vertex_faces = sp.csr_matrix((np.ones(F * 4), (quads.ravel(), face_ids)), (V, F))
    vertex_edges = sp.csr_matrix((np.ones(E * 2), (unique.ravel(), np.repeat(np.arange(E), 2))), (V, E))
    moved = _vertex_points(vertex_faces, vertex_edges, face_points, midpoints, boundary)

    corners = [
        np.stack([quads[:, i], V + edge_of[:, i], V + E + np.arange(F), V + edge_of[:, i - 1]], 1) for i in range(4)
    ]
    matrix = sp.vstack([moved, edge_points, face_points]).tocsr()
    matrix.eliminate_zeros()
    return Subdivision(matrix, np.stack(corners, 1).reshape(-1, 4), face_ids)


def _vertex_points(
    vertex_faces: csr_matrix,
    vertex_edges: csr_matrix,
    face_points: csr_matrix,
    midpoints: csr_matrix,
    boundary: csr_matrix,
) -> csr_matrix:
    """New positions of the coarse vertices: (F + 2 R + (n - 3) P) / n inside, (M + P) / 2 on a boundary."""
    import scipy.sparse as sp

    V = vertex_faces.shape[0]
    valence = np.maximum(np.asarray(vertex_edges.sum(1)).ravel(), 1)
    face_count = np.maximum(np.asarray(vertex_faces.sum(1)).ravel(), 1)
    inside = (
        sp.diags(1 / (valence * face_count)) @ vertex_faces @ face_points
        + sp.diags(2 / valence**2) @ vertex_edges @ midpoints
        + sp.diags((valence - 3) / valence)
    )
    boundary_edges = vertex_edges @ boundary
    on_boundary = np.asarray(boundary_edges.sum(1)).ravel() > 0
    border = 0.25 * (boundary_edges @ midpoints) + 0.5 * sp.identity(V)
    border = sp.diags(1 / np.asarray(border.sum(1)).ravel()) @ border  # a corner may touch other than two edges
    return sp.diags((~on_boundary).astype(float)) @ inside + sp.diags(on_boundary.astype(float)) @ border
