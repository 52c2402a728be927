"""What makes a synthetic person: the head's shape and the skin's, brows' and eyes' looks, as numbers to learn from.

Names alone teach little about people who weren't seen; that a picture tells these numbers does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..heads.basis import load_basis
from ..heads.identity import Identity, sample_identity
from ..heads.scene import frame
from ..heads.shape import blend_identity

HEAD_JOINT, RIGID, EVERY = 4, 0.95, 8
"""The skull and face are what the head's joint moves alone; every eighth of its vertices is enough."""
SHAPES = 32
"""Principal components of the shape (chosen)."""


def look_of(person: Identity) -> list[float]:
    """Colours (in logarithms) and features of skin, brows and eyes."""
    skin, eyes = person.look.skin, person.look.eyes
    colours = np.log(np.array([*skin.color, *skin.lip, *skin.brow, *eyes.iris]) + 0.01).tolist()
    features = [skin.brow_density, 100 * skin.brow_height, 100 * skin.brow_thickness, 100 * skin.brow_arch]
    return [*colours, *features, skin.freckles, skin.wrinkles, skin.makeup, skin.redness, eyes.iris_rad]


def shape_of(person: Identity) -> Tensor:
    """Points of the neutral head (3 K,), placed and scaled as the renderer does."""
    basis = load_basis()
    neutral, _ = blend_identity(basis, person.phenotype, person.changes)
    scale, origin = frame(neutral.numpy())
    points = neutral[basis.weights[:, HEAD_JOINT] > RIGID][::EVERY]
    return ((points - torch.from_numpy(origin).float()) * scale).flatten()


def trait_table(seeds: Sequence[int]) -> Tensor:
    """Traits (P, T) of the people of some seeds, each with mean 0 and deviation 1 over them."""
    people = [sample_identity(seed) for seed in seeds]
    shapes = torch.stack([shape_of(person) for person in people])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        left, sizes, _ = torch.pca_lowrank(shapes, q=min(SHAPES, len(people)), center=True, niter=4)
    table = torch.cat([left * sizes, torch.tensor([look_of(person) for person in people])], dim=1)
    return (table - table.mean(0)) / table.std(0).clamp_min(1e-6)
