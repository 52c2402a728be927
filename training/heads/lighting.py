"""Light on what a ray hit: surfaces, hair, backdrop reflections, and the tone curve."""
# mypy: ignore-errors
# Warp compiles these functions from their source: its Python subset and its types are not the type checker's.

import warp as wp

from .casting import (
    BACKGROUND,
    BEARD,
    CLOTH,
    EYE,
    GLASSES,
    HAIR,
    HULL,
    SKIN,
    TEETH,
    TONGUE,
    Geometry,
    Hit,
    backdrop_color,
)
from .device import ClothValues, EyesValues, HairValues, LightValues, SkinValues, Surface, mix
from .materials import (
    cloth_surface,
    eye_surface,
    painted,
    plain_surface,
    skin_surface,
    teeth_surface,
    tongue_surface,
)
from .strands import hair_albedo, light_hair


@wp.func
def wrapped(nl: float, wrap: float) -> float:
    return wp.max(0.0, (nl + wrap) / (1.0 + wrap))


@wp.func
def ggx(n: wp.vec3, v: wp.vec3, to_light: wp.vec3, roughness: float) -> float:
    """Specular lobe of Walter et al. 2007 with Schlick's Fresnel term for skin-like dielectrics."""
    h = wp.normalize(v + to_light)
    nh = wp.max(wp.dot(n, h), 0.0)
    nl = wp.max(wp.dot(n, to_light), 0.0)
    nv = wp.max(wp.dot(n, v), 0.05)
    a2 = roughness * roughness * roughness * roughness
    k = nh * nh * (a2 - 1.0) + 1.0
    fresnel = 0.04 + 0.96 * wp.pow(1.0 - wp.max(wp.dot(h, v), 0.0), 5.0)
    return a2 / (k * k) * fresnel * nl / (4.0 * nv * wp.max(nl, 0.05) + 0.1)


@wp.func
def light_surface(s: Surface, v: wp.vec3, to_light: wp.vec3, color: wp.vec3, shadow: float) -> wp.vec3:
    """One light on skin-like (wrapped, redder in the terminator) or plain matter."""
    nl = wp.dot(s.normal, to_light)
    open = 0.5 + 0.5 * s.occlusion
    diffuse = color * (wrapped(nl, s.wrap) * shadow * open)
    if s.subsurface > 0.5:
        r = wrapped(nl, s.wrap) * (0.10 + 0.90 * shadow)
        g = wrapped(nl, s.wrap * 0.45) * (0.03 + 0.97 * shadow)
        b = wrapped(nl, s.wrap * 0.30) * (0.02 + 0.98 * shadow)
        diffuse = wp.cw_mul(color, wp.vec3(r, g, b)) * open
    specular = ggx(s.normal, v, to_light, s.roughness) * s.specular * shadow * s.occlusion
    return wp.cw_mul(s.albedo, diffuse) + color * specular


@wp.func
def surface_of(
    geo: Geometry,
    skin: SkinValues,
    eyes: EyesValues,
    hair: HairValues,
    cloth: ClothValues,
    tint: wp.vec3,
    hit: Hit,
    footprint: float,
) -> Surface:
    r = hit.rest
    occlusion = hit.layer[0]
    s = Surface()
    if hit.material == SKIN:
        s = skin_surface(skin, hair, geo.seed, r, hit.normal, hit.masks, hit.layer[1], footprint)
        s.albedo = painted(geo.paint, geo.seed, r, footprint, s.albedo)
        s.occlusion = occlusion
    elif hit.material == CLOTH:
        s = cloth_surface(cloth, geo.seed, r, hit.normal, footprint)
        s.albedo = painted(geo.paint, geo.seed, r, footprint, s.albedo)
        s.occlusion = occlusion
    elif hit.material == EYE:
        centre = geo.left_eye
        if r[0] < 0.0:
            centre = geo.right_eye
        s = eye_surface(eyes, geo.seed, r, centre, hit.normal, occlusion)
    elif hit.material == TEETH:
        s = teeth_surface(r, hit.normal, occlusion)
    elif hit.material == TONGUE:
        s = tongue_surface(geo.seed, r, hit.normal, occlusion)
    elif hit.material == GLASSES:
        s = plain_surface(tint * 0.04 + wp.vec3(0.02, 0.02, 0.02), 0.8, 0.25, hit.normal)
    else:
        s = plain_surface(wp.vec3(0.02, 0.015, 0.012), 0.0, 0.5, hit.normal)
    return s


@wp.func
def shade_hair(geo: Geometry, hair: HairValues, light: LightValues, hit: Hit, v: wp.vec3, footprint: float) -> wp.vec3:
    albedo = hair_albedo(hair.dark, hair.light, geo.seed, hit.rest, hit.grain)
    height = hit.layer[2]
    if hit.material == BEARD:
        albedo = hair_albedo(hair.beard_dark, hair.beard_light, geo.seed, hit.rest, hit.grain)
        height = 0.4 + 0.6 * height
    albedo = painted(geo.paint, geo.seed, hit.rest, footprint, albedo)
    n = hit.normal
    occlusion = hit.layer[0] * (0.30 + 0.70 * height)
    color = wp.cw_mul(albedo, mix(light.ground, light.sky, 0.5 + 0.5 * n[1])) * occlusion
    color += light_hair(albedo, n, v, light.key_dir, light.key, hit.shadow[0], occlusion, hit.grain, hair.curl)
    color += light_hair(albedo, n, v, light.fill_dir, light.fill, hit.shadow[1], occlusion, hit.grain, hair.curl)
    color += light_hair(albedo, n, v, light.rim_dir, light.rim, 1.0, occlusion, hit.grain, hair.curl)
    return color


@wp.func
def shade(
    geo: Geometry,
    skin: SkinValues,
    eyes: EyesValues,
    hair: HairValues,
    cloth: ClothValues,
    light: LightValues,
    hit: Hit,
    d: wp.vec3,
    footprint: float,
) -> wp.vec3:
    v = -d
    if hit.material == HAIR or hit.material == BEARD or hit.material == HULL:
        return shade_hair(geo, hair, light, hit, v, footprint)
    s = surface_of(geo, skin, eyes, hair, cloth, light.lens_tint, hit, footprint)
    n = s.normal
    color = wp.cw_mul(s.albedo, mix(light.ground, light.sky, 0.5 + 0.5 * n[1])) * s.occlusion
    color += light_surface(s, v, light.key_dir, light.key, hit.shadow[0])
    color += light_surface(s, v, light.fill_dir, light.fill, hit.shadow[1])
    color += light_surface(s, v, light.rim_dir, light.rim, 1.0)
    grazing = wp.pow(1.0 - wp.max(wp.dot(n, v), 0.0), 4.0)
    if hit.material == EYE:
        mirrored = d - n * (2.0 * wp.dot(d, n))
        color += backdrop_color(geo.backdrop, mirrored) * ((0.012 + 0.10 * grazing) * s.occlusion)
    else:
        color += light.sky * (grazing * s.specular * 0.06 * s.occlusion)
    return color


@wp.func
def tone_map(linear: float) -> float:
    """Soft shoulder, then the sRGB curve."""
    c = wp.max(linear, 0.0)
    c = c * (1.0 + c / 6.0) / (1.0 + c * 0.85)
    if c <= 0.0031308:
        return 12.92 * c
    return wp.min(1.055 * wp.pow(c, 1.0 / 2.4) - 0.055, 1.0)


@wp.func
def radiance(
    geo: Geometry,
    skin: SkinValues,
    eyes: EyesValues,
    hair: HairValues,
    cloth: ClothValues,
    light: LightValues,
    hit: Hit,
    d: wp.vec3,
    footprint: float,
) -> wp.vec3:
    """Tone-mapped colour of a sample."""
    color = wp.vec3()
    if hit.material == BACKGROUND:
        color = backdrop_color(geo.backdrop, d)
    else:
        color = shade(geo, skin, eyes, hair, cloth, light, hit, d, footprint)
    color = (wp.cw_mul(color, hit.transmitted) + hit.reflected) * light.exposure
    return wp.vec3(tone_map(color[0]), tone_map(color[1]), tone_map(color[2]))
