"""The kit's colour calibration, as its `correct_color` documents it: per camera a matrix (3, terms) that takes the
polynomial expansion of linear RGB (Cheung et al. 2004, Westland and Ripamonti 2004) to corrected linear RGB.

sRGB is decoded, expanded, multiplied and encoded again; values below 0 keep their sign through the encoding's power.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor

_SQUARES, _CUBES = "rr gg bb", "rrr ggg bbb"
_PAIRS, _MIXED = "rg rb gb", "rgb rrg ggb bbr"
_TERMS = {
    3: "r g b",
    4: "r g b 1",
    5: "r g b rgb 1",
    7: f"r g b {_PAIRS} 1",
    8: f"r g b {_PAIRS} rgb 1",
    10: f"r g b {_PAIRS} {_SQUARES} 1",
    11: f"r g b {_PAIRS} {_SQUARES} rgb 1",
    14: f"r g b {_PAIRS} {_SQUARES} rgb {_CUBES} 1",
    16: f"r g b {_PAIRS} {_SQUARES} {_MIXED} {_CUBES}",
    17: f"r g b {_PAIRS} {_SQUARES} {_MIXED} {_CUBES} 1",
    19: f"r g b {_PAIRS} {_SQUARES} {_MIXED} rrb ggr bbg {_CUBES}",
    20: f"r g b {_PAIRS} {_SQUARES} {_MIXED} rrb ggr bbg {_CUBES} 1",
    22: f"r g b {_PAIRS} {_SQUARES} {_MIXED} rrb ggr bbg {_CUBES} rrgb rggb rgbb",
}
"""The expansions by their number of terms, each a product of channels."""
_ROWS = 64  # at a time, for memory


def colour_fault(matrix: Any) -> str | None:
    """What keeps a camera's entry in color_calibration.json from being a matrix of a known expansion, or None."""
    if not isinstance(matrix, list) or len(matrix) != 3 or not all(isinstance(row, list) for row in matrix):
        return "no 3 rows of numbers"
    terms = len(matrix[0])
    if terms not in _TERMS or any(len(row) != terms for row in matrix):
        return f"rows of {', '.join(str(len(row)) for row in matrix)} numbers; known are {', '.join(map(str, _TERMS))}"
    values = [value for row in matrix for value in row]
    good = all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values)
    return None if good else "holds a value that is not a finite number"


def correct_colours(image: np.ndarray, matrix: Tensor) -> np.ndarray:
    """An sRGB image (H, W, 3) uint8, corrected by a matrix (3, terms), rounded to uint8."""
    weights = matrix.double().numpy()
    corrected = np.empty_like(image)
    for top in range(0, len(image), _ROWS):
        linear = _LINEAR[image[top : top + _ROWS]]  # (rows, W, 3)
        encoded = _encoded(_expanded(linear, weights.shape[1]) @ weights.T)
        corrected[top : top + _ROWS] = np.clip(np.rint(encoded * 255), 0, 255)
    return corrected


def _expanded(rgb: np.ndarray, terms: int) -> np.ndarray:
    """(..., 3) -> (..., terms)."""
    channels = dict(zip("rgb", np.moveaxis(rgb, -1, 0), strict=True)) | {"1": np.ones(rgb.shape[:-1])}
    return np.stack(
        [math.prod((channels[c] for c in term[1:]), start=channels[term[0]]) for term in _TERMS[terms].split()], axis=-1
    )


def _encoded(linear: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1."""
    curve = 1.055 * np.sign(linear) * np.abs(linear) ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, 12.92 * linear, curve)


def _decoded(encoded: np.ndarray) -> np.ndarray:
    return np.where(encoded <= 12.92 * 0.0031308, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


_LINEAR = _decoded(np.arange(256) / 255)
