"""What a head looks like: materials, light and backdrop as plain values. The renderer mirrors them on the device.

Colours are linear RGB; lengths in metres on the template; directions in world axes (x subject's left, y up, z front).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Color = tuple[float, float, float]
Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Skin:
    color: Color
    lip: Color
    brow: Color
    eyeshadow: Color
    redness: float  # 0..1 cheeks, nose, chin, ears
    freckles: float  # 0..1
    blotches: float  # 0..1 uneven pigment
    gloss: float
    roughness: float
    stubble: float  # 0..1
    makeup: float  # 0..1
    wrinkles: float  # 0..1
    brow_density: float
    brow_height: float
    brow_thickness: float
    brow_arch: float
    mole0: Vector
    mole1: Vector
    mole2: Vector


@dataclass(frozen=True)
class Eyes:
    iris: Color
    iris_rad: float
    pupil_rad: float


@dataclass(frozen=True)
class Hair:
    dark: Color
    light: Color
    beard_dark: Color
    beard_light: Color
    curl: float  # 0 straight .. 1 afro
    frequency: float  # strands per radian about the whorl
    density: float
    length: float  # of long hair, below the head joint
    whorl: Vector  # unit


@dataclass(frozen=True)
class Cloth:
    color: Color
    second: Color
    pattern: float  # 0 plain, 1 stripes, 2 checks, 3 spots
    frequency: float
    collar: float  # height of the collar
    vneck: float  # depth of a V-neck


@dataclass(frozen=True)
class Paint:
    """What lies over skin, hair and cloth; without amounts, nothing."""

    patches: Color = (0.0, 0.0, 0.0)
    patch_amount: float = 0.0  # 0..1
    patch_frequency: float = 1.0  # per metre
    patch_threshold: float = 0.0  # of noise; patches are where it is above
    patch_edge: float = 0.1  # of noise; how softly they end
    lines: Color = (0.0, 0.0, 0.0)
    line_amount: float = 0.0  # 0..1
    line_frequency: float = 1.0
    line_width: float = 0.05  # of noise; lines are where it is nearer to zero
    grain_amount: float = 0.0  # of brightness
    grain_frequency: float = 1.0


@dataclass(frozen=True)
class Light:
    key_dir: Vector
    key: Color
    fill_dir: Vector
    fill: Color
    rim_dir: Vector
    rim: Color
    sky: Color
    ground: Color
    softness: float  # radius of the key's and fill's soft shadow cone
    exposure: float
    lens_tint: Color


@dataclass(frozen=True)
class Backdrop:
    color0: Color
    color1: Color
    color2: Color
    frequency: float
    room: float  # 1: blocks as of a room out of focus
    blur: float


@dataclass(frozen=True)
class Look:
    skin: Skin
    eyes: Eyes
    hair: Hair
    cloth: Cloth
    light: Light
    backdrop: Backdrop
    paint: Paint = Paint()


def linear(rgb: tuple[float, float, float]) -> np.ndarray:
    """sRGB 0..255 -> linear 0..1."""
    return (np.asarray(rgb, float) / 255) ** 2.2


SKIN_TONES = [
    linear(c)
    for c in (
        (244, 214, 196),
        (236, 200, 176),
        (224, 183, 155),
        (205, 160, 128),
        (182, 134, 100),
        (150, 104, 74),
        (116, 76, 52),
        (86, 55, 39),
        (62, 41, 32),
    )
]


def skin_color(tone: float) -> np.ndarray:
    """Tone 0 (fairest) .. 1 (darkest) -> linear RGB."""
    place = float(np.clip(tone, 0, 1)) * (len(SKIN_TONES) - 1)
    i = min(int(place), len(SKIN_TONES) - 2)
    return SKIN_TONES[i] * (1 - place + i) + SKIN_TONES[i + 1] * (place - i)


def color(values: np.ndarray) -> Color:
    r, g, b = (float(v) for v in values)
    return (r, g, b)


def direction(azimuth_deg: float, elevation_deg: float) -> np.ndarray:
    a, e = np.radians(azimuth_deg), np.radians(elevation_deg)
    return np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])


def sample_light(rng: np.random.Generator) -> Light:
    """A key of any side, a weaker fill across, sometimes a rim from behind, sky and ground."""
    white = np.array([1 + rng.normal(0, 0.06), 1, 1 + rng.normal(0, 0.06)])
    key = rng.uniform(-75, 75)
    ambient = rng.uniform(0.28, 0.65)
    tinted = rng.random() < 0.2
    return Light(
        key_dir=color(direction(key, rng.uniform(10, 60))),
        key=color(white * rng.uniform(0.55, 1.3)),
        fill_dir=color(direction(-np.sign(key) * rng.uniform(20, 90), rng.uniform(-5, 40))),
        fill=color(white * rng.uniform(0.05, 0.4) * (1 + rng.normal(0, 0.1, 3))),
        rim_dir=color(direction(rng.choice([-1, 1]) * rng.uniform(110, 160), rng.uniform(10, 50))),
        rim=color(rng.uniform(0, 0.5) * (1 + rng.normal(0, 0.15, 3))),
        sky=color(ambient * white * (1 + rng.normal(0, 0.06, 3))),
        ground=color(ambient * rng.uniform(0.3, 0.8) * (1 + rng.normal(0, 0.06, 3))),
        softness=float(rng.uniform(0.08, 0.35)),
        exposure=float(rng.uniform(0.85, 1.2)),
        lens_tint=color(rng.uniform(0.15, 0.5) * rng.uniform(0.8, 1, 3)) if tinted else (1.0, 1.0, 1.0),
    )


def sample_backdrop(rng: np.random.Generator) -> Backdrop:
    base = rng.uniform(0.02, 0.75, 3)
    base = base.mean() + (base - base.mean()) * rng.choice([0, 0.25, 0.6, 1.0], p=[0.3, 0.38, 0.24, 0.08])
    return Backdrop(
        color0=color(base),
        color1=color(np.clip(base * rng.uniform(0.4, 1.5) + rng.normal(0, 0.06, 3), 0.01, 1)),
        color2=color(np.clip(base * rng.uniform(0.3, 2.2) + rng.normal(0, 0.08, 3), 0.01, 1)),
        frequency=float(rng.uniform(1.5, 6)),
        room=float(rng.random() < 0.45),
        blur=float(rng.uniform(0.15, 0.5)),
    )
