"""How accurate the judges are, on people that they haven't learned from.

python -m training.judges.render --held-out --count 200 --out data/judges-held-out
python -m training.judges.verify --data data/judges-held-out

With --embedding the identity network of somebody else is measured instead of our judge of identity.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tyro.conf import OmitArgPrefixes

from nvb_core.cli import interruptible
from nvb_core.degradation import PRESETS, degrade, sample_degradation
from nvb_core.errors import ConfigError, NVBError
from nvb_core.staging import write_atomically

from ..data import FaceFolder, read_index, to_float
from ..evaluation.embedding import EmbeddingOptions
from .judges import SHIPPED, Readings, read_judges
from .people import SIZE, scene_of
from .train import require_labelled

PAIRS = 200_000
YAW_BINS_DEG = (0, 20, 40, 100)


@dataclass(frozen=True)
class Options:
    """Measure the judges."""

    data: Path
    """Face folder of held-out people."""
    weights: Path = SHIPPED
    """Judges."""
    level: str = "level0"
    """How bad the pictures are made first: level0 leaves them, level1 is what restorations come from."""
    out: Path | None = None
    """JSON file to write."""
    identity: OmitArgPrefixes[EmbeddingOptions] = field(default_factory=EmbeddingOptions)


@dataclass(frozen=True)
class Accuracy:
    """Figures of one set of pictures."""

    people: int
    pictures: int
    auc: float
    """That a pair of pictures of one person has a larger cosine than a pair of two; scenes always differ."""
    auc_same_hair: float
    """Of these, the pairs of one person that share the hair."""
    auc_other_hair: float
    auc_by_yaw: dict[str, float]
    """By how far apart the yaws are."""
    accepted_at_1_percent: float
    """Share of pairs of one person above the cosine that 1 % of the others reach."""
    cosine_same: float
    cosine_other: float
    yaw_error_deg: float
    pitch_error_deg: float
    roll_error_deg: float


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a positive is above a negative, ties counting half."""
    order = np.sort(negative)
    below = np.searchsorted(order, positive, side="left")
    not_above = np.searchsorted(order, positive, side="right")
    return float((below + not_above).mean() / 2 / len(order))


@dataclass(frozen=True, eq=False)
class Pairs:
    """Cosines of pairs of pictures from different scenes, and what is known of each pair."""

    cosine: np.ndarray  # (P,)
    same_person: np.ndarray  # (P,) bool
    same_hair: np.ndarray  # (P,) bool; of one person
    yaw_apart_deg: np.ndarray  # (P,)

    def auc(self, chosen: np.ndarray) -> float:
        """Over chosen pairs (P,) of one person, against chosen pairs of two; nan without either."""
        positive, negative = (self.cosine[chosen & (self.same_person == same)] for same in (True, False))
        return auc(positive, negative) if len(positive) and len(negative) else float("nan")


def sample_pairs(
    readings: Readings, people: np.ndarray, scenes: np.ndarray, yaws: np.ndarray, rng: np.random.Generator
) -> Pairs:
    """All pairs of one person and as many of two, drawn, up to PAIRS of each; never of the same scene."""
    first, second = np.triu_indices(len(people), 1)
    same = people[first] == people[second]
    own = np.flatnonzero(same & (scenes[first] != scenes[second]))
    others = np.flatnonzero(~same)
    chosen = np.concatenate([rng.permutation(group)[:PAIRS] for group in (own, others)])
    a, b = first[chosen], second[chosen]
    embeddings = readings.embeddings.numpy()
    last = scenes.max()
    return Pairs(
        (embeddings[a] * embeddings[b]).sum(1),
        same[chosen],
        (scenes[a] == last) == (scenes[b] == last),
        np.abs(yaws[a] - yaws[b]),
    )


def accuracy(
    readings: Readings, people: Sequence[str], scenes: Sequence[int], angles_deg: Tensor, seed: int = 0
) -> Accuracy:
    """From what the judges read in N pictures, who they show, in which scene, and the true angles (N, 3)."""
    _, order = np.unique(np.array(people), return_inverse=True)
    yaws = angles_deg[:, 0].numpy()
    pairs = sample_pairs(readings, order, np.array(scenes), yaws, np.random.default_rng(seed))
    everything = np.ones(len(pairs.cosine), bool)
    own, others = pairs.cosine[pairs.same_person], pairs.cosine[~pairs.same_person]
    bins = pairwise(YAW_BINS_DEG)
    errors = (readings.angles_deg - angles_deg).abs().mean(0).tolist()
    return Accuracy(
        people=int(order.max()) + 1,
        pictures=len(people),
        auc=pairs.auc(everything),
        auc_same_hair=pairs.auc(~pairs.same_person | pairs.same_hair),
        auc_other_hair=pairs.auc(~pairs.same_person | ~pairs.same_hair),
        auc_by_yaw={
            f"{low}-{high}": pairs.auc((low <= pairs.yaw_apart_deg) & (pairs.yaw_apart_deg < high))
            for low, high in bins
        },
        accepted_at_1_percent=float((own > np.quantile(others, 0.99)).mean()),
        cosine_same=float(own.mean()),
        cosine_other=float(others.mean()),
        yaw_error_deg=errors[0],
        pitch_error_deg=errors[1],
        roll_error_deg=errors[2],
    )


def verify(options: Options) -> Accuracy:
    """Read all pictures of a folder and measure. Raises ConfigError or CheckpointError."""
    if options.level not in PRESETS:
        raise ConfigError(f"--level is {options.level}, must be one of {', '.join(PRESETS)}")
    plugged = options.identity.open()
    judges, faces, index = read_judges(options.weights), FaceFolder.load(options.data, SIZE), read_index(options.data)
    require_labelled(faces, [options.data], judges.network.config.size)
    if len(set(index.subjects)) < 2:
        raise ConfigError(f"{options.data}: pictures of two people are the least to tell people apart")
    images = to_float(faces.sources[0].images(torch.arange(len(faces))))
    rng = np.random.default_rng(0)
    images = degrade(images, [sample_degradation(rng, PRESETS[options.level]) for _ in images])
    cameras = faces.sources[0].cameras
    angles = cameras.angles()
    true = torch.stack([angles.yaw_deg, angles.pitch_deg, angles.roll_deg], dim=1).float()
    readings = judges.read(images)
    if plugged is not None:
        readings = replace(readings, embeddings=plugged.embed(images, cameras))
    return accuracy(readings, index.subjects, [scene_of(path) for path in index.paths], true)


def main() -> int:
    """Print and write the figures; returns the exit code."""
    import tyro

    try:
        with interruptible():
            options = tyro.cli(Options, prog="python -m training.judges.verify")
            text = json.dumps(asdict(verify(options)), indent=1)
            print(text)
            if options.out:
                write_atomically(options.out, lambda partial: partial.write_text(text, encoding="utf-8"))
    except NVBError as error:
        print(f"training.judges.verify: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
