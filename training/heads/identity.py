"""A person from a seed: ancestry drives shape, skin, hair and eyes together; light and backdrop come along.

Every group of choices draws from its own stream of the seed, so that one group's changes leave the others alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from nvb_core.errors import ConfigError

from .basis import load_basis, smoothstep
from .look import Cloth, Eyes, Hair, Look, Skin, color, linear, sample_backdrop, sample_light, skin_color
from .shape import Phenotype
from .wild import Bend, sample_bend, sample_paint, wild_changes

Style = Literal["bald", "buzz", "short", "crop", "curly", "afro", "long", "bob"]
STYLES: tuple[Style, ...] = ("bald", "buzz", "short", "crop", "curly", "afro", "long", "bob")
# Odds of STYLES by ancestry (african, asian, caucasian).
MEN_STYLES = np.array(
    [
        (0.12, 0.38, 0.20, 0.04, 0.12, 0.14, 0.0, 0.0),
        (0.05, 0.12, 0.45, 0.26, 0.01, 0.0, 0.07, 0.04),
        (0.09, 0.12, 0.37, 0.22, 0.09, 0.0, 0.08, 0.03),
    ]
)
WOMEN_STYLES = np.array(
    [
        (0.02, 0.08, 0.06, 0.03, 0.27, 0.22, 0.20, 0.12),
        (0.0, 0.01, 0.06, 0.07, 0.02, 0.0, 0.52, 0.32),
        (0.0, 0.01, 0.07, 0.08, 0.15, 0.0, 0.43, 0.26),
    ]
)
HAIR_COLORS: dict[str, tuple[float, float, float]] = {
    "black": (22, 18, 17),
    "dark brown": (48, 32, 23),
    "brown": (84, 54, 35),
    "light brown": (122, 84, 54),
    "blond": (186, 150, 100),
    "platinum": (214, 196, 160),
    "red": (132, 58, 28),
    "grey": (140, 136, 132),
    "white": (206, 204, 200),
}
HAIR_COLOR_ODDS = np.array(
    [
        (0.86, 0.12, 0.02, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        (0.80, 0.17, 0.03, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        (0.14, 0.26, 0.23, 0.15, 0.13, 0.03, 0.06, 0.0, 0.0),
    ]
)
IRIS_COLORS: dict[str, tuple[float, float, float]] = {
    "dark brown": (44, 27, 18),
    "brown": (70, 42, 24),
    "hazel": (104, 80, 44),
    "green": (92, 110, 70),
    "blue": (88, 122, 156),
    "grey": (112, 124, 132),
}
IRIS_ODDS = np.array(
    [(0.72, 0.26, 0.02, 0.0, 0.0, 0.0), (0.66, 0.31, 0.03, 0.0, 0.0, 0.0), (0.10, 0.24, 0.18, 0.14, 0.22, 0.12)]
)
TONE_MEAN, TONE_SIGMA = np.array([0.76, 0.32, 0.16]), np.array([0.11, 0.07, 0.07])
UNUSUAL_CHANGES = {  # asymmetric or ugly when large
    *("head-angle-out", "head-trans-out", "neck-trans-out", "nose-trans-out", "mouth-trans-out"),
    *("nose-septumangle-incr", "head-trans-up", "head-trans-forward", "neck-double-incr"),
}


@dataclass(frozen=True)
class HairStyle:
    style: Style
    length_scale: float
    recede: float  # 0..1
    part: float  # metres from the middle; 0 is none
    part_forward: bool
    beard: float  # 0..1
    bangs: bool
    bangs_height: float
    hull_azimuth_deg: float  # where long hair starts beside the face
    hull_offset: float


@dataclass(frozen=True)
class Glasses:
    half_width: float
    half_height: float
    squareness: float  # exponent of the superellipse: 1 round, less is squarer
    rim_radius: float


@dataclass(frozen=True)
class Identity:
    seed: int
    male: bool
    phenotype: Phenotype
    changes: Mapping[str, float]  # local changes in -1..1
    hair_style: HairStyle
    glasses: Glasses | None
    cloth_thickness: float
    look: Look
    bend: Bend | None = None


def sample_identity(seed: int) -> Identity:
    """The person of a seed; the same seed gives the same person. Bakes the head basis on first use.

    Raises ConfigError for a negative seed, or where the basis isn't baked yet and anny is missing.
    """
    if seed < 0:
        raise ConfigError(f"seed is {seed}; expected 0 or more")
    phenotype = _sample_phenotype(np.random.default_rng([seed, 0]))
    male = phenotype.gender < 0.5
    hair_style = _sample_hair_style(np.random.default_rng([seed, 2]), phenotype, male)
    rng = np.random.default_rng([seed, 3])
    tone = _sample_tone(rng, phenotype)
    hair_rgb = _sample_hair_color(rng, phenotype)
    light_rng = np.random.default_rng([seed, 4])
    look = Look(
        skin=_sample_skin(rng, phenotype, male, tone, hair_rgb),
        eyes=_sample_eyes(rng, phenotype),
        hair=_sample_hair(rng, hair_style, hair_rgb),
        cloth=_sample_cloth(np.random.default_rng([seed, 5])),
        light=sample_light(light_rng),
        backdrop=sample_backdrop(light_rng),
    )
    extra = np.random.default_rng([seed, 6])
    return Identity(
        seed=seed,
        male=male,
        phenotype=phenotype,
        changes=_sample_changes(np.random.default_rng([seed, 1]), phenotype),
        hair_style=hair_style,
        glasses=_sample_glasses(extra),
        cloth_thickness=float(extra.uniform(0.004, 0.010)),
        look=look,
    )


def sample_wild_identity(seed: int) -> Identity:
    """The person of a seed, deformed and painted as nobody is (`wild`); same errors."""
    person, rng = sample_identity(seed), np.random.default_rng([seed, 10])
    changes = wild_changes(rng, person.changes)
    return replace(person, changes=changes, bend=sample_bend(rng), look=replace(person.look, paint=sample_paint(rng)))


def _sample_phenotype(rng: np.random.Generator) -> Phenotype:
    a, b, c = rng.dirichlet([0.3, 0.3, 0.3]).tolist()
    ages = (rng.uniform(0, 0.17), rng.uniform(0.33, 0.62), rng.uniform(0.55, 1.0))
    return Phenotype(
        ancestry=(a, b, c),
        gender=float(rng.beta(0.35, 0.35)),
        age=float(rng.choice(ages, p=[0.07, 0.56, 0.37])),
        muscle=float(rng.uniform(0.2, 0.8)),
        weight=float(np.clip(rng.normal(0.5, 0.2), 0, 1)),
        proportions=float(rng.uniform(0.3, 1.0)),
    )


def _change_sigma(name: str) -> float:
    if name in UNUSUAL_CHANGES:
        return 0.06
    if name.startswith(("nose", "chin")):
        return 0.16
    if name.startswith(("neck", "measure", "eyebrows-trans-forward")):
        return 0.15
    return 0.10 if "trans" in name else 0.20


def _sample_changes(rng: np.random.Generator, phenotype: Phenotype) -> dict[str, float]:
    """Left and right move almost together."""
    changes: dict[str, float] = {}
    for name in load_basis().local_names:
        if name.startswith("r-"):
            continue
        value = float(np.clip(rng.normal(0, _change_sigma(name)), -0.7, 0.7))
        changes[name] = value
        if name.startswith("l-"):
            changes["r-" + name[2:]] = float(np.clip(value + rng.normal(0, 0.04), -1, 1))
    old = phenotype.age > 0.4
    changes["head-age-incr"] = (
        float(np.clip((phenotype.age - 0.55) * 1.5 + rng.normal(0, 0.15), -0.3, 1)) if old else 0.0
    )
    return changes


def _mixed(odds: np.ndarray, phenotype: Phenotype) -> np.ndarray:
    """Odds by ancestry (3, N) -> odds of a person (N,); a mixed ancestry leans to its larger part."""
    weights = np.array(phenotype.ancestry) ** 2
    mixed = weights @ odds
    return np.asarray(mixed / mixed.sum())


def _sample_hair_style(rng: np.random.Generator, phenotype: Phenotype, male: bool) -> HairStyle:
    child = phenotype.age < 0.25
    odds = _mixed(MEN_STYLES if male else WOMEN_STYLES, phenotype)
    style = STYLES[rng.choice(len(STYLES), p=odds)]
    if child and style == "bald":
        style = "short"
    grown_man = male and not child
    return HairStyle(
        style=style,
        length_scale=float(rng.uniform(0.75, 1.3)),
        recede=float(rng.beta(1, 3) if grown_man else rng.uniform(0, 0.15)),
        part=float(rng.choice([0, -0.03, 0.03, 0.005])),
        part_forward=bool(rng.random() < 0.3),
        beard=float(rng.uniform(0.2, 1)) if grown_man and rng.random() < 0.33 else 0.0,
        bangs=bool(rng.random() < 0.35),
        bangs_height=float(rng.uniform(0.052, 0.085)),
        hull_azimuth_deg=float(rng.uniform(58, 80)),
        hull_offset=float(rng.uniform(-0.002, 0.010)),
    )


def _sample_tone(rng: np.random.Generator, phenotype: Phenotype) -> float:
    weights = np.array(phenotype.ancestry)
    return float(np.clip(weights @ TONE_MEAN + rng.normal(0, weights @ TONE_SIGMA), 0.02, 1))


def _sample_hair_color(rng: np.random.Generator, phenotype: Phenotype) -> np.ndarray:
    names = list(HAIR_COLORS)
    name = names[rng.choice(len(names), p=_mixed(HAIR_COLOR_ODDS, phenotype))]
    if phenotype.age > 0.78 and rng.random() < 0.7:
        name = str(rng.choice(["grey", "white"]))
    if rng.random() < 0.02:
        return linear(tuple(rng.uniform(40, 200, 3)))
    return linear(HAIR_COLORS[name]) * rng.uniform(0.85, 1.15)


def _sample_skin(rng: np.random.Generator, phenotype: Phenotype, male: bool, tone: float, hair_rgb: np.ndarray) -> Skin:
    base = skin_color(tone) * (1 + rng.normal(0, 0.03, 3))
    natural = male or phenotype.age < 0.25 or rng.random() < 0.5
    lipstick = base * np.array([1.0, 0.38, 0.40]) * rng.uniform(0.7, 1.1)
    child = phenotype.age < 0.25
    aged = float(np.clip((phenotype.age - 0.48) / 0.45, 0, 1))
    moles = [color(rng.uniform((-0.07, -0.08, 0.08), (0.07, 0.10, 0.14))) for _ in range(3)]
    return Skin(
        color=color(base),
        lip=color(base * np.array([0.90, 0.50, 0.52]) if natural else lipstick),
        brow=color(np.minimum(hair_rgb * 0.6, base * 0.38) + 0.004),
        eyeshadow=color(rng.uniform(0.02, 0.8, 3)),
        redness=float(rng.uniform(0.2, 1) * (1 - 0.5 * tone)),
        freckles=float(rng.uniform(0.3, 1) * (1 - tone) if rng.random() < 0.25 else 0),
        blotches=float(rng.uniform(0.25, 0.9)),
        gloss=float(rng.uniform(0.4, 1.1)),
        roughness=float(rng.uniform(0.40, 0.56)),
        stubble=float(rng.uniform(0, 0.8)) if male and not child else 0.0,
        makeup=float(0 if natural else rng.uniform(0, 0.7)),
        wrinkles=float(aged * rng.uniform(0.4, 1) + 0.06),
        brow_density=float(rng.uniform(0.55, 0.95)),
        brow_height=float(rng.normal(0, 0.0015)),
        brow_thickness=float(rng.uniform(0.0042, 0.0066) if male else rng.uniform(0.0030, 0.0048)),
        brow_arch=float(rng.uniform(0.002, 0.006)),
        mole0=moles[0],
        mole1=moles[1],
        mole2=moles[2],
    )


def _sample_eyes(rng: np.random.Generator, phenotype: Phenotype) -> Eyes:
    names = list(IRIS_COLORS)
    name = names[rng.choice(len(names), p=_mixed(IRIS_ODDS, phenotype))]
    return Eyes(color(linear(IRIS_COLORS[name])), float(rng.uniform(0.395, 0.44)), float(rng.uniform(0.13, 0.22)))


def _sample_hair(rng: np.random.Generator, style: HairStyle, rgb: np.ndarray) -> Hair:
    curls = {"curly": rng.uniform(0.6, 0.9), "afro": 1.0, "buzz": 0.55}
    whorl = np.array([rng.normal(0, 0.12), 0.8, -0.55])
    beard = rgb * rng.uniform(0.75, 1.0)
    return Hair(
        dark=color(rgb * 0.55),
        light=color(rgb * 1.5 + 0.01),
        beard_dark=color(beard * 0.5),
        beard_light=color(beard * 1.3 + 0.008),
        curl=float(curls.get(style.style, rng.uniform(0, 0.35))),
        frequency=float(rng.uniform(40, 75)),
        density=float(rng.uniform(0.05, 0.25)),
        length=float(rng.uniform(0.14, 0.36) if style.style == "long" else rng.uniform(0.05, 0.11)),
        whorl=color(whorl / np.linalg.norm(whorl)),
    )


def _sample_cloth(rng: np.random.Generator) -> Cloth:
    first = (
        rng.uniform(0.03, 0.8, 3) * rng.uniform(0.4, 1) if rng.random() < 0.5 else np.full(3, rng.uniform(0.02, 0.8))
    )
    collar = float(rng.choice([0, 0.012, -0.02, 0.06], p=[0.4, 0.25, 0.2, 0.15]))
    vneck = float(rng.choice([0, 0.05, 0.08], p=[0.6, 0.2, 0.2]))
    return Cloth(
        color=color(first),
        second=color(rng.uniform(0.02, 0.7, 3)),
        pattern=float(rng.choice([0, 1, 2, 3], p=[0.6, 0.18, 0.12, 0.10])),
        frequency=float(rng.uniform(25, 110)),
        collar=collar,
        vneck=vneck if collar < 0.05 else 0.0,
    )


def _sample_glasses(rng: np.random.Generator) -> Glasses | None:
    width, height, squareness = rng.uniform((0.023, 0.016, 0.45), (0.028, 0.023, 1.0)).tolist()
    radius = float(rng.choice([0.0008, 0.0014, 0.0024]))
    return Glasses(width, height, squareness, radius) if rng.random() < 0.16 else None


def cloth_depth(cloth: Cloth, rest: np.ndarray) -> np.ndarray:
    """Metres below the collar's edge (V,) of rest points (V, 3); positive is under cloth. The renderer repeats it."""
    x, y, z = rest.T
    collar = -0.150 + 0.5 * (np.clip(-z, -0.075, 0.07) + 0.05) + cloth.collar
    collar = collar + 0.05 * smoothstep(0.085, 0.13, np.abs(x))
    collar = collar - smoothstep(0, 0.06, z) * cloth.vneck * np.maximum(0, 1 - np.abs(x) / 0.06)
    return np.asarray(collar - y)
