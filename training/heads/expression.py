"""Facial expressions, gaze and the head's pose on the neck, sampled from a seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


def _both(name: str, value: float) -> dict[str, float]:
    return {f"{name}Left": value, f"{name}Right": value}


SMILE = _both("mouthSmile", 0.8) | _both("cheekSquint", 0.5) | _both("eyeSquint", 0.3)
GRIN = (
    _both("mouthSmile", 0.9)
    | _both("mouthUpperUp", 0.6)
    | _both("mouthLowerDown", 0.5)
    | _both("cheekSquint", 0.6)
    | _both("eyeSquint", 0.4)
    | {"jawOpen": 0.12}
)
PRESETS: dict[str, dict[str, float]] = {
    "smile": SMILE,
    "grin": GRIN,
    "open": {"jawOpen": 0.75},
    "surprise": {"jawOpen": 0.45, "browInnerUp": 0.9} | _both("browOuterUp", 0.8) | _both("eyeWide", 0.7),
    "frown": _both("browDown", 0.9) | _both("mouthFrown", 0.7) | _both("eyeSquint", 0.3),
    "disgust": _both("noseSneer", 0.9) | _both("mouthUpperUp", 0.45) | _both("browDown", 0.5),
    "pucker": {"mouthPucker": 0.9},
    "blink": _both("eyeBlink", 1.0),
    "wink": {"eyeBlinkLeft": 1.0, "mouthSmileLeft": 0.6, "cheekSquintLeft": 0.6},
    "puff": {"cheekPuff": 0.9},
    "tongue": {"jawOpen": 0.4, "tongueOut": 0.9},
    "left": {"mouthLeft": 0.8, "jawLeft": 0.4},
    "right": {"mouthRight": 0.8, "jawRight": 0.4},
    "funnel": {"mouthFunnel": 0.8, "jawOpen": 0.25},
}
# People mostly smile at a camera; the rest are there so that the mouth and brows are seen in all their shapes.
PRESET_WEIGHTS = {"smile": 6.0, "grin": 5.0, "open": 2.0, "surprise": 1.5, "frown": 1.5}


@dataclass(frozen=True)
class Expression:
    """Facial actions in 0..1 by name (Face Units), and neck bends as rotation vectors in radians by joint."""

    actions: Mapping[str, float] = field(default_factory=dict)
    bends: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)


NEUTRAL = Expression()


def sample_expression(seed: int) -> Expression:
    """Half neutral, half a preset at intensity 0.3..1; gaze and neck vary always."""
    rng = np.random.default_rng([seed, 7])
    actions: dict[str, float] = {}
    if rng.random() < 0.5:
        odds = np.array([PRESET_WEIGHTS.get(name, 1.0) for name in PRESETS])
        preset = PRESETS[list(PRESETS)[rng.choice(len(PRESETS), p=odds / odds.sum())]]
        intensity = float(rng.uniform(0.3, 1))
        actions = {name: value * intensity for name, value in preset.items()}
    actions |= _gaze(float(rng.normal(0, 0.25)), float(rng.normal(0, 0.12)))
    bends = {
        "head": tuple(rng.normal(0, (0.06, 0.10, 0.04)).tolist()),
        "neck02": tuple(rng.normal(0, (0.05, 0.10, 0.04)).tolist()),
    }
    return Expression(actions, bends)


def _gaze(left: float, up: float) -> dict[str, float]:
    """Eye actions of looking to the subject's left and up, in fractions of the full turn."""
    side = ("eyeLookOutLeft", "eyeLookInRight") if left > 0 else ("eyeLookInLeft", "eyeLookOutRight")
    height = ("eyeLookUpLeft", "eyeLookUpRight") if up > 0 else ("eyeLookDownLeft", "eyeLookDownRight")
    return dict.fromkeys(side, min(abs(left), 1.0)) | dict.fromkeys(height, min(abs(up), 1.0))
