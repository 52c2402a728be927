"""The ray caster: one thread a pixel, shading in linear light, tone-mapped to sRGB."""
# mypy: ignore-errors
# ruff: noqa: SIM109
# Warp compiles these functions from their source: its Python subset and its types are not the type checker's, and
# it knows no `in`.

import warp as wp

from .casting import BACKGROUND, CLOTH, HAIR, HULL, LASH, SKIN, Geometry, Hit, cast
from .device import ClothValues, EyesValues, HairValues, LightValues, SkinValues, noise, to_device
from .lighting import radiance
from .materials import cloth_depth
from .patch import Material

wp.set_module_options({"enable_backward": False, "fast_math": True})

CLASS_COUNT = int(Material.GLASSES) + 1  # a lens is never what a ray stops at, and the hull counts as hair
ClassSums = wp.types.vector(length=CLASS_COUNT, dtype=float)
SMOOTH = wp.constant(1.95)  # two unit normals whose sum is longer than this lie on one smooth surface


@wp.struct
class Look:
    skin: SkinValues
    eyes: EyesValues
    hair: HairValues
    cloth: ClothValues
    light: LightValues


@wp.struct
class Lens:
    """A view's camera, focal lengths and centre normalised by the image size."""

    cam2world: wp.mat44
    fx: float
    fy: float
    cx: float
    cy: float


def device_look(look):
    """look.Look -> Look, without the backdrop, which is a map by now."""
    values = Look()
    for name in ("skin", "eyes", "hair", "cloth", "light"):
        setattr(values, name, to_device(getattr(look, name)))
    return values


def device_lenses(cameras, device):
    """nvb_core Cameras -> array of N Lens."""
    lenses = []
    for pose, k in zip(cameras.cam2world.tolist(), cameras.intrinsics.tolist(), strict=True):
        lens = Lens()
        lens.cam2world = wp.mat44(*(value for row in pose for value in row))
        lens.fx, lens.fy, lens.cx, lens.cy = k[0][0], k[1][1], k[0][2], k[1][2]
        lenses.append(lens)
    return wp.array(lenses, dtype=Lens, device=device)


@wp.struct
class Pixel:
    """Sums over a pixel's samples."""

    count: float
    color: wp.vec3
    classes: ClassSums
    depths: ClassSums
    group: Hit  # skin, or cloth, is lit once: its samples are averaged as long as they are neighbours
    grouped: float
    first: wp.vec3  # where on the rest shape the group started


@wp.func
def classified(geo: Geometry, cloth: ClothValues, hit: Hit, v: wp.vec3) -> Hit:
    """The hit with skin below the collar turned to cloth, and thin layers turned toward the eye."""
    h = hit
    if h.material == SKIN and cloth_depth(cloth, h.rest) + 0.0015 * noise(geo.seed, 61, h.rest * 60.0) > 0.0:
        h.material = CLOTH
    if (h.material == HULL or h.material == HAIR or h.material == LASH) and wp.dot(h.normal, v) < 0.0:
        h.normal = -h.normal
    return h


@wp.func
def merged(sum: Hit, hit: Hit) -> Hit:
    """Sums of what varies smoothly over a surface."""
    s = sum
    s.material = hit.material
    s.transmitted = hit.transmitted
    s.normal += hit.normal
    s.rest += hit.rest
    s.masks += hit.masks
    s.layer += hit.layer
    s.shadow += hit.shadow
    return s


@wp.func
def divided(sum: Hit, count: float) -> Hit:
    s = sum
    s.normal = wp.normalize(sum.normal)
    s.rest = sum.rest / count
    s.masks = sum.masks / count
    s.layer = sum.layer / count
    s.shadow = sum.shadow / count
    return s


@wp.func
def sample_position(pixel: int, index: int, size: int, side: int) -> wp.vec2:
    """Image coordinates (0..1) of a pixel's sample on a rotated grid of side² places."""
    i = index // side
    j = index % side
    x = float(pixel % size) + (float(i) + (float(j) + 0.5) / float(side)) / float(side)
    y = float(pixel // size) + (float(j) + (float(side - 1 - i) + 0.5) / float(side)) / float(side)
    return wp.vec2(x / float(size), y / float(size))


@wp.func
def ray_direction(lens: Lens, at: wp.vec2) -> wp.vec3:
    """Unit, in the camera's frame."""
    return wp.normalize(wp.vec3((at[0] - lens.cx) / lens.fx, (at[1] - lens.cy) / lens.fy, 1.0))


@wp.func
def to_world(lens: Lens, local: wp.vec3) -> wp.vec3:
    d = lens.cam2world * wp.vec4(local[0], local[1], local[2], 0.0)
    return wp.vec3(d[0], d[1], d[2])


@wp.func
def with_sample(sums: Pixel, geo: Geometry, look: Look, lens: Lens, at: wp.vec2, footprint: float) -> Pixel:
    p = sums
    local = ray_direction(lens, at)
    d = to_world(lens, local)
    m = lens.cam2world
    o = wp.vec3(m[0, 3], m[1, 3], m[2, 3])
    hit = classified(geo, look.cloth, cast(geo, look.hair, look.skin, look.light.lens_tint, o, d), -d)
    kind = hit.material
    if kind == HULL:
        kind = HAIR
    p.count += 1.0
    p.classes[kind] += 1.0
    p.depths[kind] += hit.distance * local[2]
    joins = (kind == SKIN or kind == CLOTH) and hit.reflected[0] == 0.0
    if joins and p.grouped > 0.0:
        joins = kind == p.group.material and wp.length(hit.rest - p.first) < 3.0 * footprint
    if joins:
        if p.grouped == 0.0:
            p.first = hit.rest
        p.group = merged(p.group, hit)
        p.grouped += 1.0
    else:
        p.color += radiance(geo, look.skin, look.eyes, look.hair, look.cloth, look.light, hit, d, footprint)
    return p


@wp.func
def settled(p: Pixel) -> bool:
    """Whether a pixel's first two samples, opposite each other, lie on one smooth surface or both on nothing."""
    return p.classes[BACKGROUND] == 2.0 or (p.grouped == 2.0 and wp.length(p.group.normal) > SMOOTH)


@wp.kernel
def render_kernel(
    geo: Geometry,
    look: Look,
    lenses: wp.array(dtype=Lens),  # (N)
    size: int,
    side: int,  # side² samples a pixel on a rotated grid
    footprint: float,  # metres on the template that a pixel covers at the head
    rgb: wp.array2d(dtype=wp.vec3),  # (N, size²)
    alpha: wp.array2d(dtype=float),
    depth: wp.array2d(dtype=float),
    segmentation: wp.array2d(dtype=wp.uint8),
):
    view, pixel = wp.tid()
    lens = lenses[view]
    p = Pixel()
    for step in range(side * side):
        if step == 2 and settled(p):
            break
        index = step // 2  # in pairs that lie opposite each other about the pixel's centre
        if step % 2 == 1:
            index = side * side - 1 - index
        p = with_sample(p, geo, look, lens, sample_position(pixel, index, size, side), footprint)
    if p.grouped > 0.0:
        d = to_world(lens, ray_direction(lens, sample_position(pixel, 0, size, 1)))
        hit = divided(p.group, p.grouped)
        light = radiance(geo, look.skin, look.eyes, look.hair, look.cloth, look.light, hit, d, footprint)
        p.color += light * p.grouped
    best = 0
    for c in range(CLASS_COUNT):
        if p.classes[c] > p.classes[best]:
            best = c
    rgb[view, pixel] = p.color / p.count
    alpha[view, pixel] = 1.0 - p.classes[BACKGROUND] / p.count
    depth[view, pixel] = wp.inf
    if best > 0:
        depth[view, pixel] = p.depths[best] / p.classes[best]
    segmentation[view, pixel] = wp.uint8(best)
