"""Geometry on the device and the ray through it: the first surface that stops it, past hair shells and lenses."""
# mypy: ignore-errors
# ruff: noqa: UP018
# Warp compiles these functions from their source: its Python subset and its types are not the type checker's, and
# float(0.0) declares a variable where 0.0 would be a constant.

import warp as wp

from .device import HairValues, PaintValues, SkinValues, mix
from .patch import Material
from .strands import hull_hair, lash_hair, shell_beard, shell_hair

BACKGROUND = wp.constant(int(Material.BACKGROUND))
SKIN = wp.constant(int(Material.SKIN))
EYE = wp.constant(int(Material.EYE))
TEETH = wp.constant(int(Material.TEETH))
TONGUE = wp.constant(int(Material.TONGUE))
LASH = wp.constant(int(Material.LASH))
HAIR = wp.constant(int(Material.HAIR))
BEARD = wp.constant(int(Material.BEARD))
CLOTH = wp.constant(int(Material.CLOTH))
GLASSES = wp.constant(int(Material.GLASSES))
LENS = wp.constant(int(Material.LENS))
HULL = wp.constant(int(Material.HULL))  # a material only: its class is HAIR
MOST_LAYERS = wp.constant(40)  # shells and lenses a ray passes at most


@wp.struct
class Geometry:
    mesh: wp.uint64
    triangles: wp.array(dtype=wp.int32)  # (3 T)
    materials: wp.array(dtype=wp.int32)  # (T)
    normals: wp.array(dtype=wp.vec3)  # (V)
    rest: wp.array(dtype=wp.vec3)  # (V)
    masks: wp.array(dtype=wp.vec4)  # (V) lips, eyelids, ears, beard
    layers: wp.array(dtype=wp.vec4)  # (V) occlusion, hair amount, height in the layer, -
    shadows: wp.array(dtype=wp.vec2)  # (V) how much of the key and the fill light arrives
    right_eye: wp.vec3
    left_eye: wp.vec3
    backdrop: wp.array2d(dtype=wp.vec3)  # latitude-longitude map
    seed: wp.uint32
    paint: PaintValues


@wp.struct
class Hit:
    material: int  # 0: nothing was hit
    distance: float
    position: wp.vec3
    normal: wp.vec3
    rest: wp.vec3
    masks: wp.vec4
    layer: wp.vec4
    shadow: wp.vec2
    grain: float
    transmitted: wp.vec3
    reflected: wp.vec3


@wp.func
def backdrop_color(backdrop: wp.array2d(dtype=wp.vec3), d: wp.vec3) -> wp.vec3:
    """Bilinear lookup of a direction."""
    rows = backdrop.shape[0]
    columns = backdrop.shape[1]
    x = (wp.atan2(d[0], d[2]) / 6.2831853 + 0.5) * float(columns) - 0.5
    y = (0.5 - wp.asin(wp.clamp(d[1], -1.0, 1.0)) / 3.1415927) * float(rows) - 0.5
    x0 = int(wp.floor(x))
    y0 = int(wp.floor(y))
    fx = x - float(x0)
    fy = y - float(y0)
    left = (x0 + columns) % columns
    right = (x0 + 1) % columns
    top = wp.clamp(y0, 0, rows - 1)
    bottom = wp.clamp(y0 + 1, 0, rows - 1)
    upper = mix(backdrop[top, left], backdrop[top, right], fx)
    return mix(upper, mix(backdrop[bottom, left], backdrop[bottom, right], fx), fy)


@wp.func
def layer_hit(
    geo: Geometry, hair: HairValues, skin: SkinValues, material: int, rest: wp.vec3, layer: wp.vec4
) -> wp.vec2:
    """-> (1 where the surface stops the ray, strand noise)."""
    if material == HAIR:
        return shell_hair(hair, geo.seed, rest, layer[1], layer[2])
    if material == BEARD:
        return shell_beard(geo.seed, rest, layer[1], layer[2])
    if material == HULL:
        return hull_hair(hair, geo.seed, rest, layer[1], layer[2])
    if material == LASH:
        return wp.vec2(lash_hair(geo.seed, rest, skin.makeup), 0.0)
    return wp.vec2(1.0, 0.0)


@wp.func
def cast(geo: Geometry, hair: HairValues, skin: SkinValues, tint: wp.vec3, o: wp.vec3, d: wp.vec3) -> Hit:
    """The first surface that stops the ray, through hair shells and lenses."""
    hit = Hit()
    hit.transmitted = wp.vec3(1.0, 1.0, 1.0)
    start = float(0.0)
    for _ in range(MOST_LAYERS):
        q = wp.mesh_query_ray(geo.mesh, o + d * start, d, 10.0)
        if not q.result:
            return hit
        i0 = geo.triangles[3 * q.face]
        i1 = geo.triangles[3 * q.face + 1]
        i2 = geo.triangles[3 * q.face + 2]
        u = q.u
        v = q.v
        w = 1.0 - u - v
        material = geo.materials[q.face]
        distance = start + q.t
        start = distance + 2.0e-5
        if material == LENS:
            n = wp.normalize(geo.normals[i0] * u + geo.normals[i1] * v + geo.normals[i2] * w)
            mirrored = d - n * (2.0 * wp.dot(d, n))
            hit.reflected += wp.cw_mul(hit.transmitted, backdrop_color(geo.backdrop, mirrored) * 0.05)
            hit.transmitted = wp.cw_mul(hit.transmitted, tint)
        else:
            hit.rest = geo.rest[i0] * u + geo.rest[i1] * v + geo.rest[i2] * w
            hit.layer = geo.layers[i0] * u + geo.layers[i1] * v + geo.layers[i2] * w
            stopped = layer_hit(geo, hair, skin, material, hit.rest, hit.layer)
            if stopped[0] > 0.5:
                hit.material = material
                hit.grain = stopped[1]
                hit.distance = distance
                hit.position = o + d * distance
                hit.normal = wp.normalize(geo.normals[i0] * u + geo.normals[i1] * v + geo.normals[i2] * w)
                hit.masks = geo.masks[i0] * u + geo.masks[i1] * v + geo.masks[i2] * w
                hit.shadow = geo.shadows[i0] * u + geo.shadows[i1] * v + geo.shadows[i2] * w
                return hit
    return hit
