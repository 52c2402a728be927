"""Heads that nobody has: bent, lopsided and painted, the same from every side.

People differ in more ways than a head model and a few sliders say. A network that has only seen what those can make
draws such heads whatever the photo shows; one that has also seen these has to look (domain randomisation, Tobin et al.
2017). All values are chosen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .look import Paint, color
from .patch import Patch

WAVES = 8
WAVELENGTH = (0.05, 0.35)  # metres
STRAIN = (0.3, 0.8)  # below 1, no bend folds over
CHANGE, LOPSIDED = 1.8, 0.18  # factor on local changes, and how far left and right differ


@dataclass(frozen=True, eq=False)
class Bend:
    """A smooth map of space: p -> p + sum of amplitudes · sin(waves · p + phases)."""

    amplitudes: np.ndarray  # (K, 3) metres
    waves: np.ndarray  # (K, 3) radians a metre
    phases: np.ndarray  # (K,)

    def points(self, points: np.ndarray) -> np.ndarray:
        """Where points (N, 3) go."""
        return np.asarray(points + np.sin(points @ self.waves.T + self.phases) @ self.amplitudes)

    def normals(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """Unit normals (N, 3) of the bent surface at points before the bend: the inverse transposed Jacobian's."""
        slopes = np.cos(points @ self.waves.T + self.phases)
        jacobian = np.eye(3) + np.einsum("ki,nk,kj->nij", self.amplitudes, slopes, self.waves)
        bent = np.linalg.solve(jacobian.transpose(0, 2, 1), normals[..., None])[..., 0]
        return np.asarray(bent / np.linalg.norm(bent, axis=1, keepdims=True))


@dataclass(frozen=True, eq=False)
class Similarity:
    """p -> scale · rotation · p + shift."""

    scale: float
    rotation: np.ndarray  # (3, 3)
    shift: np.ndarray  # (3,)

    def points(self, points: np.ndarray) -> np.ndarray:
        """Where points (N, 3) go."""
        return np.asarray(self.scale * points @ self.rotation.T + self.shift)

    @classmethod
    def between(cls, start: np.ndarray, end: np.ndarray) -> Similarity:
        """The one that takes points (N, 3) nearest to others, in the square mean (Umeyama 1991)."""
        a, b = start - start.mean(0), end - end.mean(0)
        u, spread, v = np.linalg.svd(b.T @ a)
        signs = np.array([1, 1, np.sign(np.linalg.det(u @ v))])
        rotation, scale = (u * signs) @ v, float(spread @ signs / np.square(a).sum())
        return cls(scale, rotation, end.mean(0) - scale * rotation @ start.mean(0))


def bent_head(
    bend: Bend, patches: Sequence[Patch], landmarks: np.ndarray, held: np.ndarray
) -> tuple[list[Patch], np.ndarray]:
    """Patches and landmarks (L, 3), bent; rest shapes, and so what things are made of, stay.

    As a whole, points `held` (N, 3) are then back in place, so that a bent head still looks where it should.
    """
    back = Similarity.between(bend.points(held), held)

    def moved(points: np.ndarray) -> np.ndarray:
        return back.points(bend.points(points))

    bent = [
        replace(
            patch,
            points=moved(patch.points),
            normals=bend.normals(patch.points, patch.normals) @ back.rotation.T,
            caster_points=moved(patch.caster_points),
        )
        for patch in patches
    ]
    return bent, moved(landmarks)


def sample_bend(rng: np.random.Generator) -> Bend:
    """Waves of all directions, whose strains add up to less than 1."""
    lengths = np.exp(rng.uniform(math.log(WAVELENGTH[0]), math.log(WAVELENGTH[1]), WAVES))
    waves = _directions(rng) * (2 * math.pi / lengths)[:, None]
    strains = rng.dirichlet(np.ones(WAVES)) * rng.uniform(*STRAIN)
    amplitudes = _directions(rng) * (strains * lengths / (2 * math.pi))[:, None]
    return Bend(amplitudes, waves, rng.uniform(0, 2 * math.pi, WAVES))


def _directions(rng: np.random.Generator) -> np.ndarray:
    vectors = rng.normal(size=(WAVES, 3))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def sample_paint(rng: np.random.Generator) -> Paint:
    """Patches, lines and grain of any colour and size, on skin, hair and cloth alike; each may be absent."""
    amounts = rng.uniform(0.2, 1.0, 3) * (rng.random(3) < (0.6, 0.7, 0.7))
    low, high = np.log((12.0, 30.0, 40.0)), np.log((80.0, 150.0, 250.0))
    frequencies = np.exp(rng.uniform(low, high))
    return Paint(
        patches=_any_color(rng),
        patch_amount=float(amounts[0]),
        patch_frequency=float(frequencies[0]),
        patch_threshold=float(rng.uniform(-0.1, 0.35)),
        patch_edge=float(rng.uniform(0.02, 0.3)),
        lines=_any_color(rng),
        line_amount=float(amounts[1]),
        line_frequency=float(frequencies[1]),
        line_width=float(rng.uniform(0.02, 0.09)),
        grain_amount=float(amounts[2]),
        grain_frequency=float(frequencies[2]),
    )


def _any_color(rng: np.random.Generator) -> tuple[float, float, float]:
    """Linear RGB, mostly dull."""
    grey, hue = rng.uniform(0.005, 0.8), rng.normal(0, 1, 3)
    return color(np.clip(grey * (1 + rng.beta(1, 3) * hue), 0.002, 0.95))


def wild_changes(rng: np.random.Generator, changes: Mapping[str, float]) -> dict[str, float]:
    """Local changes, larger, and of each side by itself."""
    return {
        name: float(np.clip(CHANGE * value + rng.normal(0, LOPSIDED if name[:2] in ("l-", "r-") else 0), -1, 1))
        for name, value in changes.items()
    }
