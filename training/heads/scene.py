"""One identity with one expression as geometry, ready to render. Device objects are made when it is first rendered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from nvb_core.cameras import FOCAL, RADIUS

from .basis import Part, load_basis, smoothstep
from .expression import NEUTRAL, Expression
from .glasses import make_glasses
from .hair import Head, grow_hair, scalp_amount
from .identity import Identity, cloth_depth
from .patch import Material, Patch
from .regions import Regions, load_regions
from .shape import blend_identity, pose
from .upload import Upload, upload
from .wild import bent_head

VISIBLE_METRES = 0.252  # what the canonical image spans at the origin's distance, on a head of average size
VISIBLE_WORLD = RADIUS / FOCAL  # the same in world units
ORIGIN_Y, ORIGIN_Z = 0.031, 0.065  # the head's centre above the middle of eyes and mouth, and behind the face
FARTHEST = 2.0  # world units: no vertex of a sound head and its shoulders lies farther out
AVERAGE_EYE_TO_MOUTH, AVERAGE_TOP_TO_MOUTH, AVERAGE_DEPTH = 0.068, 0.189, 0.152
SKULL = 0.95  # least share of the head's joint in a vertex of the skull
PART_MATERIALS = np.array([Material.SKIN, Material.EYE, Material.TEETH, Material.TONGUE, Material.LASH, Material.HULL])


@dataclass(frozen=True, eq=False)
class Scene:
    """World units and axes (y up, face along +z, origin at the head's centre)."""

    identity: Identity
    expression: Expression
    patches: tuple[Patch, ...]  # points already in world units
    landmarks5: Tensor  # (5, 3) subject's right eye, left eye, nose tip, right and left mouth corner: image-left first
    scale: float  # world units per template metre
    device: str

    @cached_property
    def uploaded(self) -> Upload:
        """The geometry on the device; made when the scene is first rendered."""
        return upload(self.identity, self.patches, load_regions(), self.device)

    def is_sound(self) -> bool:
        """Whether every vertex is a finite number close to the head and the face lies where it should."""
        points = np.concatenate([patch.points for patch in self.patches])
        eyes, nose = self.landmarks5[:2], self.landmarks5[2]
        return bool(
            np.isfinite(points).all()
            and np.abs(points).max() < FARTHEST
            and eyes[0, 0] < nose[0] < eyes[1, 0]
            and nose[2] > eyes[:, 2].max()
        )


def build_scene(
    identity: Identity, expression: Expression = NEUTRAL, detail_px: int = 128, device: str = "cpu"
) -> Scene:
    """Geometry of one head. `detail_px` is the image size that hair shells are made for; device is cpu or cuda."""
    basis, regions = load_basis(), load_regions()
    neutral, joints = blend_identity(basis, identity.phenotype, identity.changes)
    coarse = pose(basis, neutral, joints, expression.actions, expression.bends)
    _hold_tongue(coarse, expression)
    vertices = basis.subdivide(coarse)
    normals = basis.normals(vertices)
    covered = smoothstep(-0.004, 0.006, cloth_depth(identity.look.cloth, basis.rest)) * regions.body
    vertices = vertices + normals * (identity.cloth_thickness * covered)[:, None]
    head = Head(vertices, normals, basis.rest)
    amount = scalp_amount(identity, regions, basis.rest)
    scale, origin = frame(neutral.numpy())
    pixel = VISIBLE_METRES / detail_px
    patches = [_base_patch(identity, head, amount, regions), *grow_hair(identity, head, amount, regions, pixel)]
    if identity.glasses:
        patches += make_glasses(identity.glasses, vertices, basis.rest, regions)
    landmarks = _landmarks(vertices, regions)
    if identity.bend:
        skull = vertices[: len(coarse)][basis.weights[:, 4].numpy() > SKULL]
        patches, landmarks = bent_head(identity.bend, patches, landmarks, skull)
    placed = tuple(_to_world(patch, scale, origin) for patch in patches)
    return Scene(identity, expression, placed, torch.from_numpy((landmarks - origin) * scale), scale, device)


def _hold_tongue(coarse: np.ndarray, expression: Expression) -> None:
    """Lower the tongue with the jaw, which the assets leave to the rig."""
    jaw = expression.actions.get("jawOpen", 0.0)
    if jaw > 0 and not expression.actions.get("tongueOut"):
        coarse[load_basis().coarse_part_vertices(Part.TONGUE)] += np.array([0, -0.008, -0.006], np.float32) * jaw


def frame(neutral: np.ndarray) -> tuple[float, np.ndarray]:
    """-> (world units per metre, origin (3,) in metres), as an aligned photo has it: by eyes, mouth and crown."""
    basis = load_basis()
    skull = neutral[basis.weights[:, 4].numpy() > SKULL]
    eye = neutral[basis.coarse_part_vertices(Part.EYE), 1].mean()
    mouth = neutral[basis.masks["lips"] > 0.5, 1].mean()
    top = skull[:, 1].max()
    size = 0.5 * (eye - mouth) / AVERAGE_EYE_TO_MOUTH + 0.5 * (top - mouth) / AVERAGE_TOP_TO_MOUTH
    origin = np.array([0, (eye + mouth) / 2 + ORIGIN_Y, skull[:, 2].max() - AVERAGE_DEPTH + ORIGIN_Z])
    return float(VISIBLE_WORLD / (VISIBLE_METRES * size)), origin


def _base_patch(identity: Identity, head: Head, amount: np.ndarray, regions: Regions) -> Patch:
    """Skin, eyes, teeth, tongue and lashes."""
    basis = load_basis()
    drawn = basis.triangle_parts != Part.HULL
    lips = basis.fine_masks["lips"] - smoothstep(0.3, 0.8, basis.fine_masks["inside-mouth"])
    bald = identity.hair_style.style == "bald"
    grown = amount * (0.12 * identity.look.skin.stubble if bald else 1.0)
    ones, zeros = np.ones(len(head.rest)), np.zeros(len(head.rest))
    quads = basis.coarse_quads[np.isin(basis.coarse_parts, (Part.BODY, Part.EYE))]  # shadows don't need the fine mesh
    return Patch(
        points=head.vertices,
        normals=head.normals,
        rest=head.rest,
        triangles=basis.triangles[drawn],
        materials=PART_MATERIALS[basis.triangle_parts[drawn]],
        masks=np.stack([lips, basis.fine_masks["eyelids"], regions.ear, regions.beard], 1),
        layers=np.stack([ones, grown, zeros, zeros], 1),
        caster_points=head.vertices[: len(basis.template)],
        caster_triangles=np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]),
        shaded=np.arange(len(head.rest)),
    )


def _to_world(patch: Patch, scale: float, origin: np.ndarray) -> Patch:
    return replace(patch, points=(patch.points - origin) * scale, caster_points=(patch.caster_points - origin) * scale)


def _landmarks(vertices: np.ndarray, regions: Regions) -> np.ndarray:
    """(5, 3) metres. An eye's landmark is the front of the eyeball's middle, whatever the gaze."""
    eyes = []
    for ids in regions.eye_vertices:
        low, high = vertices[ids].min(0), vertices[ids].max(0)
        eyes.append(np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, high[2]]))
    mouth = [vertices[ids].mean(0) for ids in regions.mouth_corners]
    return np.stack([*eyes, vertices[regions.nose_tip], *mouth]).astype(np.float64)
