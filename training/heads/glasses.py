"""Glasses: two superellipse rims with lenses, a bridge and temples, sitting in front of the posed eyes."""

from __future__ import annotations

import numpy as np

from .identity import Glasses
from .patch import Material, Patch
from .regions import Regions

RIM_POINTS, TUBE_SIDES = 40, 6


def make_glasses(glasses: Glasses, vertices: np.ndarray, rest: np.ndarray, regions: Regions) -> list[Patch]:
    """`vertices` and `rest` (V2, 3) are the posed and the rest head in template metres."""
    eyes = [vertices[ids].mean(0) for ids in regions.eye_vertices]  # subject's right, left
    front = max(eye[2] for eye in eyes) + 0.030
    patches = []
    for eye in eyes:
        side = float(np.sign(eye[0]))
        centre = np.array([eye[0] * 1.03, eye[1] - 0.002, front])
        rim = _rim(glasses, centre, side)
        patches += [_tube(rim, glasses.rim_radius, closed=True), _lens(glasses, rim, centre)]
        hinge = centre + np.array([side * glasses.half_width, glasses.half_height * 0.35, -0.012])
        ear_ids = (regions.ear > 0.5) & (np.sign(rest[:, 0]) == side) & (rest[:, 1] > 0.03)
        ear = vertices[ear_ids].mean(0) + np.array([side * 0.004, 0.004, 0])
        patches.append(_tube(np.linspace(hinge, ear, 10), glasses.rim_radius, closed=False))
    bridge_skin = regions.body & (np.abs(rest[:, 0]) < 0.004) & (np.abs(rest[:, 1] - 0.03) < 0.004) & (rest[:, 2] > 0.1)
    patches.append(_bridge(glasses, eyes, front, float(vertices[bridge_skin, 2].mean())))
    return patches


def _rim(glasses: Glasses, centre: np.ndarray, side: float) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, RIM_POINTS, endpoint=False)
    x = np.sign(np.cos(t)) * np.abs(np.cos(t)) ** glasses.squareness * glasses.half_width
    y = np.sign(np.sin(t)) * np.abs(np.sin(t)) ** glasses.squareness * glasses.half_height
    bow = -0.012 * ((side * x / glasses.half_width + 1) / 2) ** 2
    return np.asarray(centre + np.stack([x, y, bow], 1))


def _lens(glasses: Glasses, rim: np.ndarray, centre: np.ndarray) -> Patch:
    points = np.concatenate([rim, rim.mean(0, keepdims=True)])
    offsets = points - centre
    tilt = np.stack([offsets[:, 0] / glasses.half_width, offsets[:, 1] / glasses.half_height, np.zeros(len(points))], 1)
    normals = np.array([0, 0, 1.0]) + 0.25 * tilt
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    i = np.arange(RIM_POINTS)
    triangles = np.stack([i, (i + 1) % RIM_POINTS, np.full_like(i, RIM_POINTS)], 1)
    return Patch.solid(points, normals, triangles, Material.LENS, casts=False)


def _bridge(glasses: Glasses, eyes: list[np.ndarray], front: float, skin: float) -> Patch:
    (right, left) = eyes
    start = np.array([left[0] * 1.03 - glasses.half_width, left[1] + 0.004, front])
    end = np.array([right[0] * 1.03 + glasses.half_width, right[1] + 0.004, front])
    middle = (start + end) / 2 + np.array([0, 0.005, 0])
    middle[2] = max(middle[2], skin + 0.002)
    s = np.linspace(0, 1, 9)[:, None]
    curve = (1 - s) ** 2 * start + 2 * s * (1 - s) * middle + s * s * end
    return _tube(curve, glasses.rim_radius, closed=False)


def _tube(path: np.ndarray, radius: float, closed: bool) -> Patch:
    n = len(path)
    tangents = np.roll(path, -1, 0) - np.roll(path, 1, 0) if closed else np.gradient(path, axis=0)
    tangents = tangents / np.linalg.norm(tangents, axis=1, keepdims=True)
    across = np.cross(tangents, np.array([0, 0.1, -1.0]))
    across /= np.linalg.norm(across, axis=1, keepdims=True) + 1e-9
    upward = np.cross(tangents, across)
    angle = np.arange(TUBE_SIDES) / TUBE_SIDES * 2 * np.pi
    normals = across[:, None] * np.cos(angle)[None, :, None] + upward[:, None] * np.sin(angle)[None, :, None]
    points = (path[:, None] + normals * radius).reshape(-1, 3)
    ring, side = (
        a.ravel() for a in np.meshgrid(np.arange(n if closed else n - 1), np.arange(TUBE_SIDES), indexing="ij")
    )
    a, b = ring * TUBE_SIDES + side, ring * TUBE_SIDES + (side + 1) % TUBE_SIDES
    following = (ring + 1) % n
    c, d = following * TUBE_SIDES + side, following * TUBE_SIDES + (side + 1) % TUBE_SIDES
    triangles = np.concatenate([np.stack([a, b, d], 1), np.stack([a, d, c], 1)])
    return Patch.solid(points, normals.reshape(-1, 3), triangles, Material.GLASSES, casts=True)
