"""A piece of a scene's geometry before it goes to the device, and the materials it can have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np


class Material(IntEnum):
    """Material of a triangle; up to GLASSES also the classes of a rendered segmentation."""

    BACKGROUND = 0
    SKIN = 1
    EYE = 2
    TEETH = 3
    TONGUE = 4
    LASH = 5
    HAIR = 6
    BEARD = 7
    CLOTH = 8
    GLASSES = 9
    LENS = 10
    HULL = 11


@dataclass(frozen=True)
class Patch:
    """N vertices and T triangles in template metres."""

    points: np.ndarray  # (N, 3)
    normals: np.ndarray  # (N, 3)
    rest: np.ndarray  # (N, 3)
    triangles: np.ndarray  # (T, 3)
    materials: np.ndarray  # (T,)
    masks: np.ndarray  # (N, 4) lips, eyelids, ears, beard
    layers: np.ndarray  # (N, 4) occlusion, hair amount, height in the layer, -
    caster_points: np.ndarray  # (C, 3) what casts shadows
    caster_triangles: np.ndarray  # (D, 3)
    shaded: np.ndarray  # (N,) for each vertex, which vertex's received light it shares

    @classmethod
    def layered(
        cls,
        points: Sequence[np.ndarray],
        normals: np.ndarray,
        rest: Sequence[np.ndarray],
        triangles: Sequence[np.ndarray],
        material: Material,
        amounts: Sequence[np.ndarray],
        heights: np.ndarray,
        caster: tuple[np.ndarray, np.ndarray],
    ) -> Patch:
        """K shells of the same n vertices; all receive the light of the outermost one."""
        count, n = len(points), len(normals)
        faces = np.concatenate([t + i * n for i, t in enumerate(triangles)])
        layers = np.ones((count * n, 4))
        layers[:, 1] = np.concatenate(amounts)
        layers[:, 2] = np.repeat(heights, n)
        return cls(
            points=np.concatenate(points),
            normals=np.tile(normals, (count, 1)),
            rest=np.concatenate(rest),
            triangles=faces,
            materials=np.full(len(faces), material),
            masks=np.zeros((count * n, 4)),
            layers=layers,
            caster_points=caster[0],
            caster_triangles=caster[1],
            shaded=np.tile(np.arange(n) + (count - 1) * n, count),
        )

    @classmethod
    def solid(
        cls, points: np.ndarray, normals: np.ndarray, triangles: np.ndarray, material: Material, casts: bool
    ) -> Patch:
        """A thing of one material beside the head."""
        return cls(
            points=points,
            normals=normals,
            rest=points,
            triangles=triangles,
            materials=np.full(len(triangles), material),
            masks=np.zeros((len(points), 4)),
            layers=np.tile([[1.0, 0.0, 1.0, 0.0]], (len(points), 1)),
            caster_points=points if casts else points[:0],
            caster_triangles=triangles if casts else triangles[:0],
            shaded=np.arange(len(points)),
        )
