"""Hair and beard as shells: copies of the scalp pushed outward, on which the renderer draws strands."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from .basis import HeadBasis, Part, load_basis, smoothstep
from .identity import Identity
from .patch import Material, Patch
from .regions import Regions

LENGTHS = {"buzz": 0.004, "short": 0.018, "crop": 0.026, "curly": 0.034, "afro": 0.040, "long": 0.022, "bob": 0.022}
LIFTS = {"buzz": 0.9, "short": 0.55, "crop": 0.6, "curly": 0.95, "afro": 1.0, "long": 0.55, "bob": 0.6}
SIDE_LENGTHS = {"short": 0.45, "crop": 0.3, "curly": 0.7, "afro": 0.85}  # share of the length above the ears
MOST_SHELLS = {"buzz": 4, "afro": 18, "curly": 14}
LONGEST_AFRO_SCALE = 1.0
BEARD_SHELLS, HULL_SHELLS = 6, 8
SHELL_SPACING_PX = 2.4  # shells closer than this to each other cannot be told apart


@dataclass(frozen=True)
class Head:
    """The skin under the hair: fine vertices and normals (V2, 3) in template metres, and the rest shape."""

    vertices: np.ndarray
    normals: np.ndarray
    rest: np.ndarray


def scalp_amount(identity: Identity, regions: Regions, rest: np.ndarray) -> np.ndarray:
    """How much hair grows at each fine vertex (V2,), 0..1."""
    recede, azimuth = identity.hair_style.recede, regions.azimuth_deg
    temples = recede * (0.045 * np.exp(-(((azimuth - 38) / 22) ** 2)) + 0.02 * np.exp(-((azimuth / 30) ** 2)))
    jagged = 0.004 * np.sin(azimuth * 0.9 + identity.seed % 7) + 0.003 * np.sin(azimuth * 2.3)
    x, y, z = rest.T
    amount = smoothstep(-0.008, 0.018, y - regions.hairline - temples - jagged) * (1 - regions.ear) * regions.body
    if recede > 0.55:
        crown = np.exp(-(x**2 + (z + 0.02) ** 2) / 0.045**2) * smoothstep(0.09, 0.12, y)
        amount = amount * (1 - 0.9 * crown * smoothstep(0.5, 0.9, recede))
    return np.asarray(amount)


def grow_hair(identity: Identity, head: Head, amount: np.ndarray, regions: Regions, pixel: float) -> list[Patch]:
    """The shells of an identity's hair and beard; `pixel` is a pixel's size on the template in metres."""
    basis, style = load_basis(), identity.hair_style
    patches = []
    if style.style != "bald":
        length = _lengths(identity, head.rest)
        count = _shell_count(float(length.max()), MOST_SHELLS.get(style.style, 10), pixel)
        flow = _flow(identity, head)
        lift = LIFTS[style.style]
        patches.append(_shells(basis, head, amount, length, flow, lift, count, Material.HAIR))
    if style.beard > 0:
        grown = regions.beard * smoothstep(0, 0.15, style.beard)
        length = 0.004 + 0.014 * style.beard * (0.6 + 0.4 * smoothstep(-0.05, -0.085, head.rest[:, 1]))
        count = _shell_count(float(length.max()), BEARD_SHELLS, pixel)
        down = np.tile([[0.0, -0.9, 0.3]], (len(head.rest), 1))
        patches.append(_shells(basis, head, grown, length, down, 0.7, count, Material.BEARD))
    if style.style in ("long", "bob"):
        patches.append(_hull(identity, basis, head, regions, pixel))
    return patches


def _shell_count(length: float, most: int, pixel: float) -> int:
    return int(np.clip(round(length / (SHELL_SPACING_PX * pixel)), 3, most))


def _lengths(identity: Identity, rest: np.ndarray) -> np.ndarray:
    style = identity.hair_style
    scale = min(style.length_scale, LONGEST_AFRO_SCALE) if style.style in ("afro", "curly") else style.length_scale
    top = smoothstep(0.03, 0.13, rest[:, 1])
    side = SIDE_LENGTHS.get(style.style, 0.9)
    tufts = 1 + 0.25 * np.sin(rest[:, 0] * 60 + identity.seed % 5) * top
    if style.style in ("afro", "curly"):
        tufts = 1 + 0.1 * (tufts - 1)
    return np.asarray(LENGTHS[style.style] * scale * (side + (1 - side) * top) * tufts)


def _flow(identity: Identity, head: Head) -> np.ndarray:
    """Unit directions in the skin's plane along which hair lies (V2, 3)."""
    style, rest, normals = identity.hair_style, head.rest, head.normals
    flow = rest - np.array(identity.look.hair.whorl) * 0.2 - np.array([0, 0.05, 0.02])
    if style.style in ("short", "crop", "long", "bob") and style.part != 0:
        side = np.tanh((rest[:, 0] - style.part) / 0.01)
        forward = 0.5 if style.part_forward else -0.25
        flow = np.stack([side * 0.8, np.full_like(side, -0.35), np.full_like(side, forward)], 1)
    flow = flow / np.linalg.norm(flow, axis=1, keepdims=True)
    flow = flow - normals * (flow * normals).sum(1, keepdims=True)
    return np.asarray(flow / (np.linalg.norm(flow, axis=1, keepdims=True) + 1e-6))


def _shells(
    basis: HeadBasis,
    head: Head,
    amount: np.ndarray,
    length: np.ndarray,
    flow: np.ndarray,
    lift: float,
    count: int,
    material: Material,
) -> Patch:
    body = basis.triangles[basis.triangle_parts == Part.BODY]
    triangles, ids = _compact(body[amount[body].max(1) > 0.03])
    heights = (np.arange(count) + 0.6) / count
    grown, full = amount[ids], length[ids]
    out = head.normals[ids] * (full * grown)[:, None] * lift
    along = flow[ids] * (full * (1 - lift) * 1.2)[:, None]
    skin = head.vertices[ids] + head.normals[ids] * 0.0012
    shift = [out * h + along * h * h for h in heights]
    rest = head.rest[ids]
    thick = lift > 0.9 and material == Material.HAIR  # the strands of thick hair must differ from shell to shell
    middle = skin + shift[count // 2]
    return Patch.layered(
        points=[skin + s for s in shift],
        normals=head.normals[ids],
        rest=[rest + s if thick else rest for s in shift],
        triangles=[triangles] * count,
        material=material,
        amounts=[grown] * count,
        heights=heights,
        caster=(middle, triangles[grown[triangles].min(1) > 0.5]),
    )


def _hull(identity: Identity, basis: HeadBasis, head: Head, regions: Regions, pixel: float) -> Patch:
    style = identity.hair_style
    triangles, ids = _compact(basis.triangles[basis.triangle_parts == Part.HULL])
    count = _shell_count(0.020, HULL_SHELLS, pixel)
    normals = _weld_normals(head.normals[ids])
    rest, azimuth = head.rest[ids], regions.azimuth_deg[ids]
    x, y = rest[:, 0], rest[:, 1]
    edge = style.hull_azimuth_deg
    amount = smoothstep(edge - 7, edge + 7, azimuth) * (0.80 + 0.20 * smoothstep(-0.15, 0.02, y))
    crown = smoothstep(0.0, 0.012, y - regions.hairline[ids] - 0.004) * smoothstep(20, 40, azimuth)
    amount = np.maximum(amount, crown)
    if style.bangs:
        fringe = y + 0.004 * np.sin(x * 170 + identity.seed % 9)
        amount = np.maximum(amount, smoothstep(style.bangs_height - 0.004, style.bangs_height + 0.006, fringe))
    heights = (np.arange(count) + 0.6) / count
    points = [head.vertices[ids] + normals * ((h - 0.65) * 0.020 + style.hull_offset) for h in heights]
    drawn = triangles[(amount[triangles].max(1) > 0.02) & (y[triangles].max(1) > -identity.look.hair.length - 0.09)]
    solid = (y[triangles].mean(1) > -identity.look.hair.length) & (amount[triangles].mean(1) > 0.5)
    return Patch.layered(
        points=points,
        normals=normals,
        rest=[rest] * count,
        triangles=[drawn] * count,
        material=Material.HULL,
        amounts=[amount] * count,
        heights=heights,
        caster=(points[count // 2], triangles[solid]),
    )


@cache
def _hull_seams() -> np.ndarray:
    """Group of each hull vertex: vertices at one place, split by texture seams, share a group."""
    basis = load_basis()
    ids = basis.part_vertices(Part.HULL)
    return np.unique(np.round(basis.rest[ids] * 5000).astype(int), axis=0, return_inverse=True)[1].ravel()


def _weld_normals(normals: np.ndarray) -> np.ndarray:
    seams = _hull_seams()
    total = np.zeros((seams.max() + 1, 3))
    np.add.at(total, seams, normals)
    welded = total[seams]
    return np.asarray(welded / (np.linalg.norm(welded, axis=1, keepdims=True) + 1e-9))


def _compact(triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """-> triangles renumbered over the vertices they use, and those vertices' ids."""
    ids = np.unique(triangles)
    index = np.zeros(ids.max() + 1, int)
    index[ids] = np.arange(len(ids))
    return index[triangles], ids
