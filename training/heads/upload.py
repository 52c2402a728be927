"""Move a scene's patches to the device: one mesh to see, one that casts shadows, light received by each vertex."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .basis import load_basis
from .identity import Identity
from .patch import Patch
from .regions import Regions

OCCLUSION_RAYS, OCCLUSION_REACH = 8, 0.30  # reach in world units
SHADOW_RAYS = 4
BACKDROP_SHAPE = (96, 192)


class Upload(NamedTuple):
    """A scene on the device."""

    geometry: Any  # casting.Geometry
    meshes: tuple[Any, Any]  # warp.Mesh to see and to cast shadows, which the geometry refers to


def upload(identity: Identity, patches: Sequence[Patch], regions: Regions, device: str) -> Upload:
    from .casting import Geometry
    from .device import to_device, wp

    points, triangles = _join([(p.points, p.triangles) for p in patches])
    mesh = _mesh(points, triangles, device)
    casters = _mesh(*_join([(p.caster_points, p.caster_triangles) for p in patches]), device)
    normals = np.concatenate([p.normals for p in patches])
    layers = np.concatenate([p.layers for p in patches])
    layers[:, 0], shadows = _received_light(identity, patches, points, normals, casters, device)

    geometry: Any = Geometry()
    geometry.mesh = mesh.id
    geometry.triangles = mesh.indices
    geometry.materials = _array(np.concatenate([p.materials for p in patches]), wp.int32, device)
    geometry.normals = _array(normals, wp.vec3, device)
    geometry.rest = _array(np.concatenate([p.rest for p in patches]), wp.vec3, device)
    geometry.masks = _array(np.concatenate([p.masks for p in patches]), wp.vec4, device)
    geometry.layers = _array(layers, wp.vec4, device)
    geometry.shadows = _array(shadows, wp.vec2, device)
    geometry.right_eye, geometry.left_eye = (wp.vec3(*map(float, eye)) for eye in regions.eyes)
    geometry.backdrop = _backdrop(identity, device)
    geometry.seed = _noise_seed(identity)
    geometry.paint = to_device(identity.look.paint)
    return Upload(geometry, (mesh, casters))


def _array(values: np.ndarray, dtype: Any, device: str) -> Any:
    from .device import wp

    numbers = np.ascontiguousarray(values, np.int32 if dtype is wp.int32 else np.float32)
    return wp.array(numbers, dtype=dtype, device=device)


def _mesh(points: np.ndarray, triangles: np.ndarray, device: str) -> Any:
    from .device import wp

    return wp.Mesh(_array(points, wp.vec3, device), _array(triangles.ravel(), wp.int32, device))


def _backdrop(identity: Identity, device: str) -> Any:
    """The latitude-longitude map of the surroundings."""
    from . import precompute
    from .device import to_device, wp

    backdrop = wp.empty(BACKDROP_SHAPE, dtype=wp.vec3, device=device)
    inputs = [to_device(identity.look.backdrop), _noise_seed(identity), backdrop]
    wp.launch(precompute.backdrop_kernel, BACKDROP_SHAPE, inputs=inputs, device=device)
    return backdrop


def _noise_seed(identity: Identity) -> int:
    """32-bit seed of the identity's noise textures."""
    return int(np.random.default_rng([identity.seed, 8]).integers(1, 2**31 - 1))


def _join(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.cumsum([0, *(len(points) for points, _ in parts)])
    triangles = [faces + offset for (_, faces), offset in zip(parts, offsets[:-1], strict=True)]
    return np.concatenate([points for points, _ in parts]), np.concatenate(triangles)


def _received_light(
    identity: Identity, patches: Sequence[Patch], points: np.ndarray, normals: np.ndarray, casters: Any, device: str
) -> tuple[np.ndarray, np.ndarray]:
    """-> occlusion (N,), and the share of key and fill light that arrives (N, 2), at each vertex.

    The head's are traced at the coarse vertices and subdivided, which also blurs them; hair shells share the
    outermost shell's shadows and take their occlusion from their height.
    """
    from . import precompute
    from .device import wp

    basis = load_basis()
    head_count, coarse_count = len(basis.rest), len(basis.template)
    offsets = np.cumsum([0, *(len(p.points) for p in patches)])
    shared = [p.shaded + offset for p, offset in zip(patches[1:], offsets[1:-1], strict=True)]
    others, inverse = np.unique(np.concatenate([np.zeros(0, int), *shared]), return_inverse=True)
    traced = np.concatenate([np.arange(coarse_count), others])
    where, facing = _array(points[traced], wp.vec3, device), _array(normals[traced], wp.vec3, device)

    free = wp.zeros(coarse_count, dtype=float, device=device)
    inputs = [casters.id, where, facing, OCCLUSION_RAYS, OCCLUSION_REACH, free]
    wp.launch(precompute.occlusion_kernel, coarse_count, inputs=inputs, device=device)
    light, lit = identity.look.light, wp.zeros(len(traced), dtype=wp.vec2, device=device)
    directions = wp.vec3(*light.key_dir), wp.vec3(*light.fill_dir)
    inputs = [casters.id, where, facing, *directions, light.softness, SHADOW_RAYS, lit]
    wp.launch(precompute.shadow_kernel, len(traced), inputs=inputs, device=device)

    received = lit.numpy()
    occlusion, shadows = np.ones(len(points), np.float32), np.ones((len(points), 2), np.float32)
    occlusion[:head_count] = np.clip(basis.subdivide(free.numpy()), 0, 1)
    shadows[:head_count] = np.clip(basis.subdivide(received[:coarse_count]), 0, 1)
    shadows[head_count:] = received[coarse_count:][inverse]
    return occlusion, shadows
