"""Hair: where a shell is hair and where it lets a ray through, and how hair is coloured and lit."""
# mypy: ignore-errors
# ruff: noqa: UP018
# Warp compiles these functions from their source: its Python subset and its types are not the type checker's, and
# float(0.0) declares a variable where 0.0 would be a constant.

import warp as wp

from .device import HairValues, mix, noise, smooth


@wp.func
def strands(hair: HairValues, seed: wp.uint32, r: wp.vec3, hanging: int) -> float:
    """Noise stretched along the hair's flow: from the whorl over the skull, or straight down where it hangs."""
    d = r - wp.vec3(0.0, 0.05, 0.02)
    a = wp.normalize(wp.cross(hair.whorl, wp.vec3(0.0, 0.13, -1.0)))
    b = wp.cross(hair.whorl, a)
    x = wp.dot(d, a)
    y = wp.dot(d, b)
    radius = wp.sqrt(x * x + y * y) + 1.0e-5
    along = wp.atan2(radius, wp.dot(d, hair.whorl)) * 0.09
    if hanging == 1:
        along = -r[1] * 0.7
        x = r[0]
        y = r[2] - 0.01
        radius = wp.sqrt(x * x + y * y) + 1.0e-5
    curly = wp.clamp((hair.curl - 0.45) * 3.0, 0.0, 1.0)
    value = float(0.0)
    if curly < 1.0:
        wobble = hair.curl * noise(seed, 21, r * 28.0) * 0.25
        q = wp.vec3(
            (x / radius + wobble) * hair.frequency,
            (y / radius + wobble) * hair.frequency,
            along * (14.0 + 160.0 * hair.curl),
        )
        locks = noise(seed, 11, q)
        thin = noise(seed, 12, wp.vec3(q[0] * 3.1, q[1] * 3.1, q[2] * 1.5))
        value = (0.5 * locks + 0.65 * thin) * (1.0 - curly)
    if curly > 0.0:
        value += 0.85 * noise(seed, 13, r * (220.0 + 120.0 * hair.curl)) * curly
    return value


@wp.func
def shell_hair(hair: HairValues, seed: wp.uint32, r: wp.vec3, amount: float, height: float) -> wp.vec2:
    """-> (1 where the shell is hair, strand noise). height: 0 at the scalp .. 1 at the tips."""
    grain = strands(hair, seed, r, 0)
    clump = 0.22 * noise(seed, 31, r * 70.0)
    threshold = 0.75 * height - 0.42 - hair.density + (1.0 - amount) * 0.9 + clump * height
    opaque = float(0.0)
    if grain * 1.6 >= threshold:
        opaque = 1.0
    return wp.vec2(opaque, grain)


@wp.func
def shell_beard(seed: wp.uint32, r: wp.vec3, amount: float, height: float) -> wp.vec2:
    grain = 0.6 * noise(seed, 14, wp.vec3(r[0] * 800.0, r[1] * 350.0, r[2] * 800.0)) + 0.4 * noise(seed, 15, r * 250.0)
    opaque = float(0.0)
    if grain * 1.6 >= 0.60 * height - 0.50 + 1.1 * (1.0 - amount):
        opaque = 1.0
    return wp.vec2(opaque, grain)


@wp.func
def hull_hair(hair: HairValues, seed: wp.uint32, r: wp.vec3, amount: float, height: float) -> wp.vec2:
    """Long hair on its hull; it thins out toward its tips."""
    grain = strands(hair, seed, r, 1)
    end = -hair.length + 0.035 * noise(seed, 33, wp.vec3(r[0] * 45.0, 0.0, r[2] * 45.0))
    threshold = -0.80 + height * 0.75 + 1.5 * smooth(end + 0.05, end - 0.03, r[1]) + (1.0 - amount) * 2.6
    opaque = float(0.0)
    if grain * 1.6 >= threshold:
        opaque = 1.0
    return wp.vec2(opaque, grain)


@wp.func
def lash_hair(seed: wp.uint32, r: wp.vec3, makeup: float) -> float:
    grain = noise(seed, 41, wp.vec3(r[0] * 2300.0, r[1] * 120.0, r[2] * 300.0))
    threshold = 0.10 + 0.30 * smooth(0.121, 0.127, r[2]) - 0.25 * makeup
    if r[1] < 0.0285:
        threshold += 0.30
    opaque = float(0.0)
    if grain >= threshold:
        opaque = 1.0
    return opaque


@wp.func
def hair_albedo(dark: wp.vec3, light: wp.vec3, seed: wp.uint32, r: wp.vec3, grain: float) -> wp.vec3:
    tone = noise(seed, 80, r * 35.0)
    albedo = mix(dark, light, wp.clamp(0.5 + 0.9 * grain + 0.5 * tone, 0.0, 1.0))
    return albedo * (0.75 + 0.6 * grain)


@wp.func
def light_hair(
    albedo: wp.vec3,
    normal: wp.vec3,
    to_eye: wp.vec3,
    to_light: wp.vec3,
    color: wp.vec3,
    shadow: float,
    occlusion: float,
    grain: float,
    curl: float,
) -> wp.vec3:
    """One light on hair: Kajiya and Kay's strand model with the strands running down the head."""
    tangent = wp.vec3(0.0, -1.0, 0.0) + normal * normal[1] + wp.vec3(0.15, 0.0, 0.1) * grain
    tangent = wp.normalize(tangent)
    tl = wp.dot(tangent, to_light)
    tv = wp.dot(tangent, to_eye)
    sl = wp.sqrt(wp.max(0.0, 1.0 - tl * tl))
    sv = wp.sqrt(wp.max(0.0, 1.0 - tv * tv))
    highlight = wp.max(0.0, sl * sv - tl * tv)
    nl = wp.dot(normal, to_light)
    wrapped = wp.max(0.0, (nl + 0.3) / 1.3)
    diffuse = 0.8 * (0.35 * sl + 0.65 * wrapped) * (0.35 + 0.65 * shadow) * (0.4 + 0.6 * occlusion)
    lobes = 0.10 * wp.pow(highlight, 45.0) + 0.05 * wp.pow(highlight, 12.0)
    specular = shadow * wp.max(0.0, nl + 0.2) * lobes * (0.5 + grain) * (1.0 - 0.7 * curl)
    return wp.cw_mul(albedo, color) * diffuse + color * specular
