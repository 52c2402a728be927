"""Materials: skin, eyes, mouth and cloth as functions of the point on the rest shape (metres, basis axes)."""
# mypy: ignore-errors
# ruff: noqa: UP018
# Warp compiles these functions from their source: its Python subset and its types are not the type checker's, and
# float(0.0) declares a variable where 0.0 would be a constant.

import warp as wp

from .device import (
    ClothValues,
    EyesValues,
    HairValues,
    PaintValues,
    SkinValues,
    Surface,
    bump,
    mix,
    noise,
    smooth,
    tint,
    visible_detail,
)


@wp.func
def cloth_depth(cloth: ClothValues, r: wp.vec3) -> float:
    """Metres below the collar's edge; identity.cloth_depth on the device."""
    front = smooth(0.0, 0.06, r[2])
    edge = -0.150 + 0.5 * (wp.clamp(-r[2], -0.075, 0.07) + 0.05) + cloth.collar
    edge += 0.05 * smooth(0.085, 0.13, wp.abs(r[0]))
    edge -= front * cloth.vneck * wp.max(0.0, 1.0 - wp.abs(r[0]) / 0.06)
    return edge - r[1]


@wp.func
def brow_mask(skin: SkinValues, seed: wp.uint32, r: wp.vec3, footprint: float) -> float:
    along = (wp.abs(r[0]) - 0.011) / 0.043
    if along < -0.15 or along > 1.15 or r[2] < 0.085 or r[1] < 0.035 or r[1] > 0.085:
        return float(0.0)
    u = wp.clamp(along, 0.0, 1.0)
    centre = 0.0505 + skin.brow_height + skin.brow_arch * wp.sin(2.4 * u) - 0.002 * u
    thickness = skin.brow_thickness * (1.0 - 0.70 * u * u) * (0.55 + 0.45 * smooth(0.0, 0.25, u))
    across = wp.abs(r[1] - centre) / thickness
    mask = smooth(1.15, 0.35, across) * smooth(-0.08, 0.10, along) * smooth(1.1, 0.8, along)
    side = wp.sign(r[0])
    hairs = wp.vec3(
        (r[0] * side * 0.8 - (r[1] - centre) * (0.8 - 0.6 * u)) * 1500.0,
        (r[1] * 0.7 + r[0] * side * 0.45) * 350.0,
        side * 7.0,
    )
    grain = 0.5 + 0.9 * noise(seed, 5, hairs) * (0.3 + 0.7 * visible_detail(900.0, footprint))
    return wp.clamp(mask * (0.35 + 0.9 * grain), 0.0, 1.0)


@wp.func
def painted(paint: PaintValues, seed: wp.uint32, r: wp.vec3, footprint: float, bare: wp.vec3) -> wp.vec3:
    """Albedo with what is painted over it."""
    albedo = bare
    if paint.patch_amount > 0.0:
        n = noise(seed, 90, r * paint.patch_frequency) + 0.4 * noise(seed, 90, r * (2.7 * paint.patch_frequency))
        low = paint.patch_threshold - paint.patch_edge
        high = paint.patch_threshold + paint.patch_edge
        albedo = mix(albedo, paint.patches, paint.patch_amount * smooth(low, high, n))
    if paint.line_amount > 0.0:
        n = wp.abs(noise(seed, 91, r * paint.line_frequency))
        seen = visible_detail(paint.line_frequency, footprint)
        albedo = mix(albedo, paint.lines, paint.line_amount * seen * smooth(paint.line_width, 0.0, n))
    if paint.grain_amount > 0.0:
        n = noise(seed, 92, r * paint.grain_frequency)
        albedo = albedo * wp.max(0.1, 1.0 + paint.grain_amount * visible_detail(paint.grain_frequency, footprint) * n)
    return albedo


@wp.func
def skin_pigment(skin: SkinValues, seed: wp.uint32, r: wp.vec3, masks: wp.vec4, footprint: float) -> wp.vec3:
    """Albedo before lips, brows and hair: regional redness, pigment, freckles, moles, stubble, make-up."""
    coarse = noise(seed, 0, r * 45.0)
    middle = noise(seed, 2, r * 160.0)
    fine = float(0.0)
    detail = visible_detail(620.0, footprint)
    if detail > 0.0:
        fine = detail * noise(seed, 3, r * 620.0)
    cheek = bump(wp.abs(r[0]), 0.042, 0.016) * bump(r[1], -0.012, 0.018) * smooth(0.05, 0.09, r[2])
    nose = bump(r[0], 0.0, 0.016) * bump(r[1], -0.002, 0.012) * smooth(0.115, 0.13, r[2])
    chin = bump(r[0], 0.0, 0.02) * bump(r[1], -0.075, 0.014) * smooth(0.08, 0.11, r[2])
    red = skin.redness * (0.55 * cheek + 0.55 * nose + 0.35 * chin + 0.6 * masks[2] + 0.25 * masks[1])
    red += skin.blotches * (0.5 * coarse + 0.35 * middle)
    albedo = wp.cw_mul(skin.color, wp.vec3(1.0 + 0.10 * red, 1.0 - 0.28 * red, 1.0 - 0.26 * red))
    under_eye = bump(wp.abs(r[0]), 0.031, 0.017) * bump(r[1], 0.017, 0.007) * smooth(0.09, 0.11, r[2])
    albedo = tint(albedo, wp.vec3(0.83, 0.74, 0.74), 0.8 * under_eye * (0.4 + skin.wrinkles))
    albedo = tint(albedo, wp.vec3(0.84, 0.72, 0.70), 0.6 * masks[1])
    if skin.makeup > 0.0:
        shadow = wp.cw_mul(albedo, skin.eyeshadow * 0.7 + wp.vec3(0.2, 0.2, 0.2))
        albedo = mix(albedo, shadow, 0.7 * skin.makeup * masks[1])
    albedo = albedo * (1.0 + skin.blotches * (0.16 * coarse + 0.12 * middle + 0.10 * fine))
    if skin.freckles > 0.0:
        spots = smooth(0.28, 0.50, noise(seed, 4, r * 560.0) + 0.25 * noise(seed, 4, r * 1300.0))
        where = 0.25 + 0.9 * cheek + 0.8 * nose + 0.3 * smooth(0.02, 0.07, r[1])
        albedo = tint(albedo, wp.vec3(0.62, 0.47, 0.38), wp.clamp(spots * skin.freckles * where, 0.0, 1.0))
    mole = wp.min(wp.length(r - skin.mole0), wp.min(wp.length(r - skin.mole1), wp.length(r - skin.mole2)))
    albedo = albedo * (1.0 - 0.75 * smooth(0.0022, 0.0012, mole))
    if skin.stubble * masks[3] > 0.0:
        grain = 0.75 + 0.5 * noise(seed, 8, r * 900.0) * visible_detail(900.0, footprint)
        albedo = tint(albedo, wp.vec3(0.54, 0.56, 0.60), skin.stubble * masks[3] * grain)
    return albedo


@wp.func
def skin_relief(skin: SkinValues, seed: wp.uint32, r: wp.vec3, normal: wp.vec3, footprint: float) -> wp.vec3:
    """The normal with pores, forehead lines and crow's feet."""
    n = normal
    detail = visible_detail(750.0, footprint)
    if detail > 0.0:
        q = r * 750.0
        pores = wp.vec3(
            noise(seed, 6, q), noise(seed, 6, q + wp.vec3(17.0, 3.0, 5.0)), noise(seed, 6, q + wp.vec3(1.0, 29.0, 11.0))
        )
        n += pores * (0.05 * detail * (0.6 + 0.8 * skin.wrinkles))
    forehead = smooth(0.06, 0.075, r[1]) * smooth(0.115, 0.10, r[1]) * smooth(0.10, 0.12, r[2])
    if forehead > 0.0:
        lines = wp.sin(r[1] * 900.0 + 5.0 * noise(seed, 7, wp.vec3(r[0] * 25.0, r[1] * 12.0, 0.0)))
        n += wp.vec3(0.0, 0.13 * skin.wrinkles * lines * forehead * visible_detail(150.0, footprint), 0.0)
    side = wp.abs(r[0])
    crow = smooth(0.048, 0.056, side) * smooth(0.072, 0.062, side) * smooth(0.022, 0.012, wp.abs(r[1] - 0.028))
    if crow > 0.0:
        feet = wp.sin(r[1] * 1100.0 + side * 9600.0 * (r[1] - 0.028) + 3.0 * noise(seed, 7, r * 60.0))
        n += wp.vec3(0.0, 0.13 * skin.wrinkles * feet * crow * visible_detail(180.0, footprint), 0.0)
    return wp.normalize(n)


@wp.func
def skin_surface(
    skin: SkinValues,
    hair: HairValues,
    seed: wp.uint32,
    r: wp.vec3,
    normal: wp.vec3,
    masks: wp.vec4,
    scalp: float,
    footprint: float,
) -> Surface:
    """masks: lips (negative inside the mouth), eyelids, ears, beard; scalp: how much hair grows here, 0..1."""
    s = Surface()
    albedo = skin_pigment(skin, seed, r, masks, footprint)
    lips = smooth(0.25, 0.75, masks[0] + 0.10 * noise(seed, 2, r * 160.0))
    if lips > 0.0:
        creases = 0.25 * noise(seed, 9, wp.vec3(r[0] * 900.0, r[1] * 150.0, 0.0)) * visible_detail(900.0, footprint)
        albedo = mix(albedo, skin.lip * (1.0 + creases), lips)
    cavity = smooth(-0.30, -0.75, masks[0])
    albedo = mix(albedo, wp.vec3(0.16, 0.03, 0.03), cavity)
    brow = brow_mask(skin, seed, r, footprint) * skin.brow_density
    albedo = mix(albedo, skin.brow, brow)
    s.albedo = mix(albedo, hair.dark * 0.8, 0.75 * scalp)
    nose = bump(r[0], 0.0, 0.016) * bump(r[1], -0.002, 0.012) * smooth(0.115, 0.13, r[2])
    oily = 0.6 + 0.5 * nose + 0.4 * smooth(0.06, 0.09, r[1]) + 0.5 * lips
    s.specular = (1.0 - cavity) * skin.gloss * oily * (1.0 - 0.8 * brow)
    s.roughness = skin.roughness * (1.0 - 0.25 * lips)
    s.subsurface = 1.0
    s.wrap = 0.30
    s.normal = skin_relief(skin, seed, r, normal, footprint)
    s.occlusion = 1.0
    return s


@wp.func
def cloth_surface(cloth: ClothValues, seed: wp.uint32, r: wp.vec3, normal: wp.vec3, footprint: float) -> Surface:
    s = Surface()
    second = float(0.0)
    turn = cloth.frequency * 6.283
    if cloth.pattern > 0.5 and cloth.pattern < 1.5:
        second = smooth(-0.15, 0.15, wp.sin(r[1] * turn))
    if cloth.pattern > 1.5 and cloth.pattern < 2.5:
        second = 0.5 * smooth(-0.2, 0.2, wp.sin(r[1] * turn)) + 0.5 * smooth(-0.2, 0.2, wp.sin(r[0] * turn))
    if cloth.pattern > 2.5:
        second = smooth(0.0, 0.2, noise(seed, 51, r * (cloth.frequency * 0.9)))
    albedo = mix(cloth.color, cloth.second, second)
    detail = visible_detail(1500.0, footprint)
    if detail > 0.0:
        yarn = noise(seed, 50, wp.vec3(r[0] * 1500.0, r[1] * 1500.0, r[2] * 300.0))
        albedo = albedo * (1.0 + 0.22 * detail * yarn)
    depth = cloth_depth(cloth, r)
    s.albedo = albedo * (1.0 - 0.12 * smooth(0.018, 0.016, depth)) * (0.55 + 0.45 * smooth(0.0, 0.003, depth))
    q = r * 26.0
    folds = wp.vec3(noise(seed, 52, q), noise(seed, 53, q), noise(seed, 54, q))
    s.normal = wp.normalize(normal + folds * 0.35)
    s.specular = 0.05
    s.roughness = 0.8
    s.wrap = 0.1
    s.subsurface = 0.0
    s.occlusion = 1.0
    return s


@wp.func
def eye_surface(
    eyes: EyesValues, seed: wp.uint32, r: wp.vec3, centre: wp.vec3, normal: wp.vec3, occlusion: float
) -> Surface:
    """An eyeball looking along +z of its own rest shape; the gaze is in the blend shapes."""
    s = Surface()
    d = wp.normalize(r - centre)
    angle = wp.acos(wp.clamp(d[2], -1.0, 1.0))
    azimuth = wp.atan2(d[1], d[0])
    white = wp.vec3(0.80, 0.77, 0.74) * (1.0 + 0.05 * noise(seed, 70, d * 14.0))
    vein = smooth(0.04, 0.0, wp.abs(noise(seed, 71, d * 9.0))) * smooth(0.5, 1.0, angle)
    white = tint(white, wp.vec3(0.95, 0.62, 0.58), 0.35 * vein + 0.25 * smooth(0.6, 1.1, angle))
    fibre = noise(seed, 72, wp.vec3(wp.cos(azimuth) * 9.0, wp.sin(azimuth) * 9.0, angle * 6.0))
    iris = eyes.iris * (0.75 + 0.54 * (0.5 + fibre))
    inner = smooth(eyes.iris_rad * 0.75, eyes.pupil_rad * 1.1, angle) * 0.40
    iris = mix(iris, eyes.iris * 1.5 + wp.vec3(0.015, 0.010, 0.0), inner)
    iris = iris * (1.0 - 0.75 * smooth(eyes.iris_rad * 0.80, eyes.iris_rad, angle))
    albedo = mix(white, iris, smooth(eyes.iris_rad + 0.03, eyes.iris_rad - 0.03, angle))
    s.albedo = albedo * (1.0 - 0.96 * smooth(eyes.pupil_rad + 0.03, eyes.pupil_rad - 0.03, angle))
    s.occlusion = (occlusion * 0.75 + 0.25) * (0.6 + 0.4 * smooth(0.040, 0.030, r[1]))
    s.specular = 0.9
    s.roughness = 0.11
    s.wrap = 0.2
    s.subsurface = 0.2
    s.normal = normal
    return s


@wp.func
def teeth_surface(r: wp.vec3, normal: wp.vec3, occlusion: float) -> Surface:
    s = Surface()
    albedo = wp.vec3(0.95, 0.90, 0.80) * (0.35 + 0.65 * smooth(-0.2, 0.4, normal[2]))
    gaps = wp.abs(wp.sin(r[0] * 3.14159 / 0.0078))
    albedo = albedo * (0.55 + 0.45 * smooth(0.0, 0.35, gaps))
    albedo = mix(albedo, wp.vec3(0.55, 0.25, 0.24), smooth(0.013, 0.017, wp.abs(r[1] + 0.0345)))
    s.albedo = albedo * smooth(0.060, 0.115, r[2])
    s.occlusion = 0.40 + 0.60 * occlusion
    s.specular = 0.5
    s.roughness = 0.25
    s.subsurface = 0.3
    s.wrap = 0.0
    s.normal = normal
    return s


@wp.func
def tongue_surface(seed: wp.uint32, r: wp.vec3, normal: wp.vec3, occlusion: float) -> Surface:
    s = Surface()
    albedo = wp.vec3(0.52, 0.20, 0.19) * (1.0 + 0.2 * noise(seed, 0, r * 500.0))
    s.albedo = albedo * (0.25 + 0.75 * smooth(0.085, 0.115, r[2]))
    s.occlusion = 0.30 + 0.70 * occlusion
    s.specular = 0.5
    s.roughness = 0.35
    s.subsurface = 0.5
    s.wrap = 0.0
    s.normal = normal
    return s


@wp.func
def plain_surface(albedo: wp.vec3, specular: float, roughness: float, normal: wp.vec3) -> Surface:
    s = Surface()
    s.albedo = albedo
    s.normal = normal
    s.occlusion = 1.0
    s.specular = specular
    s.roughness = roughness
    s.wrap = 0.0
    s.subsurface = 0.0
    return s
