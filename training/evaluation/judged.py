"""What the judges of ID and POSE say of an identity's pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..judges.judges import load_judges
from .benchmark import BenchmarkFace
from .metrics import turn
from .scores import IdentityScores

if TYPE_CHECKING:
    from .measure import GeneratedFaces

DIGITS = 5


@dataclass(frozen=True)
class Judged:
    """Of one identity with N views."""

    restored_identity: float
    degraded_identity: float
    true_embedding: tuple[float, ...]
    generated_embedding: tuple[float, ...]
    of_views: tuple[list[float], ...]
    """Columns of N: ID, yaw and pitch error, the judge's own yaw and pitch error; as ViewScores ends."""


def judge(face: BenchmarkFace, generated: GeneratedFaces, index: int) -> Judged:
    """Read the pictures of face `index` of a batch and the true ones, all at once."""
    views, truth = generated.views[index], face.targets
    others = torch.stack([face.image, generated.restored[index], generated.degraded[index]])
    readings = load_judges().read(torch.cat([views, truth, others]))
    seen, true, (clean, restored, degraded) = readings.embeddings.split([len(views), len(truth), len(others)])
    angles = face.cameras.targets.angles()
    wanted = torch.stack([angles.yaw_deg, angles.pitch_deg], dim=1).float()
    errors = turn(readings.angles_deg[: 2 * len(views), :2] - wanted.repeat(2, 1)).unflatten(0, (2, -1))
    columns = torch.cat([(seen * true).sum(1)[:, None], *errors], dim=1)
    return Judged(
        restored_identity=float(restored @ clean),
        degraded_identity=float(degraded @ clean),
        true_embedding=_mean(true),
        generated_embedding=_mean(seen),
        of_views=tuple(columns.T.tolist()),
    )


def _mean(embeddings: Tensor) -> tuple[float, ...]:
    """Direction of the mean of (N, E)."""
    mean: list[float] = F.normalize(embeddings.mean(0), dim=0).tolist()
    return tuple(round(value, DIGITS) for value in mean)


def with_margins(scores: Sequence[IdentityScores]) -> tuple[IdentityScores, ...]:
    """The scores of an evaluation, each with its margins over the nearest other person; None where there is none."""
    true, generated = ([getattr(item, f"{kind}_embedding") for item in scores] for kind in ("true", "generated"))
    if len(scores) < 2 or None in true or None in generated:
        return tuple(replace(item, identity_margin=None, true_identity_margin=None) for item in scores)
    people = torch.tensor(true)
    margins = zip(_margins(torch.tensor(generated), people), _margins(people, people), strict=True)
    return tuple(
        replace(item, identity_margin=of_generated, true_identity_margin=of_true)
        for item, (of_generated, of_true) in zip(scores, margins, strict=True)
    )


def _margins(seen: Tensor, people: Tensor) -> list[float]:
    """Of embeddings (I, E), by how much each is nearer to the person of its place than to any other."""
    cosines = seen @ people.T  # (I, I)
    own = cosines.diagonal().clone()
    margins: list[float] = (own - cosines.fill_diagonal_(-1.0).amax(1)).tolist()
    return margins
