"""Regions of the fine rest shape: where hair, beard and ears are, the eyes' centres, the landmark vertices.

All lengths in metres on the template (basis axes); azimuth 0° is the face's front, 180° the back of the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from .basis import HeadBasis, Part, load_basis, smoothstep

HAIRLINE_AZIMUTH_DEG = (0, 25, 42, 55, 66, 76, 90, 105, 120, 140, 180)
HAIRLINE_HEIGHT = (0.108, 0.106, 0.098, 0.080, 0.045, 0.012, 0.030, 0.030, 0.005, -0.035, -0.055)
BEARD_SIDE = (0, 0.02, 0.032, 0.045, 0.058, 0.066, 0.08)
BEARD_HEIGHT = (-0.013, -0.016, -0.028, -0.032, -0.022, 0.010, 0.015)


@dataclass(frozen=True)
class Regions:
    """Arrays over the V2 fine vertices."""

    body: np.ndarray  # (V2,) bool
    azimuth_deg: np.ndarray  # (V2,) 0..180
    hairline: np.ndarray  # (V2,) height of the hairline at the vertex's azimuth
    ear: np.ndarray  # (V2,) 0..1
    beard: np.ndarray  # (V2,) 0..1
    eyes: np.ndarray  # (2, 3) eyeball centres at rest: subject's right, left
    eye_vertices: tuple[np.ndarray, np.ndarray]  # fine vertex ids: subject's right, left
    nose_tip: int
    mouth_corners: tuple[np.ndarray, np.ndarray]  # fine vertex ids: subject's right, left


@cache
def load_regions() -> Regions:
    return paint_regions(load_basis())


def paint_regions(basis: HeadBasis) -> Regions:
    rest, masks = basis.rest, basis.fine_masks
    x, y, z = rest.T
    body = np.zeros(len(rest), bool)
    body[basis.part_vertices(Part.BODY)] = True
    azimuth = np.degrees(np.arctan2(np.abs(x), z - 0.02))
    ear = smoothstep(0.15, 0.5, masks["ears"])

    top = np.interp(np.abs(x), BEARD_SIDE, BEARD_HEIGHT)
    beard = smoothstep(0.004, -0.006, y - top) * smoothstep(-0.112, -0.098, y) * smoothstep(0.035, 0.05, z)
    beard *= (1 - smoothstep(0.12, 0.4, masks["lips"])) * (1 - ear) * (1 - smoothstep(0.3, 0.8, masks["inside-mouth"]))

    eye_ids = basis.part_vertices(Part.EYE)
    right, left = eye_ids[x[eye_ids] < 0], eye_ids[x[eye_ids] > 0]
    return Regions(
        body=body,
        azimuth_deg=azimuth,
        hairline=np.interp(azimuth, HAIRLINE_AZIMUTH_DEG, HAIRLINE_HEIGHT),
        ear=ear,
        beard=beard * body,
        eyes=np.stack([_sphere_centre(rest[right]), _sphere_centre(rest[left])]),
        eye_vertices=(right, left),
        nose_tip=int(np.argmax(np.where(body & (np.abs(x) < 0.004) & (np.abs(y) < 0.04), z, -1))),
        mouth_corners=_mouth_corners(rest, masks["lips"]),
    )


def _sphere_centre(points: np.ndarray) -> np.ndarray:
    """Least-squares sphere through the back half (the front carries the cornea's bulge) of points (N, 3)."""
    back = points[points[:, 2] < np.median(points[:, 2])]
    system = np.c_[2 * back, np.ones(len(back))]
    return np.asarray(np.linalg.lstsq(system, (back**2).sum(1), rcond=None)[0][:3])


def _mouth_corners(rest: np.ndarray, lips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ids = np.flatnonzero(lips > 0.5)
    order = ids[np.argsort(rest[ids, 0])]
    return order[:6], order[-6:]
