"""Train the judges: python -m training.judges.train --data data/judges --out runs/judges

`python -m training.judges.render` makes the data. The averaged weights, in float16, are OUT/judges.safetensors.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Linear

from nvb_core.degradation import PRESETS, degrade, sample_degradation
from nvb_core.errors import ConfigError

from ..batches import batch_generator
from ..command import run_command
from ..data import FaceFolder, read_index, to_float
from ..data.load import load_faces
from ..export import git_revision
from ..launch import process_index
from ..loop import Picture, Trainer
from ..options import RunOptions
from ..state import Progress
from ..validation import ValidationSource
from .judges import save_judges
from .network import MIRRORED, JudgeConfig, JudgeNetwork, margin_loss, pose_loss
from .people import SIZE
from .traits import trait_table

VALIDATION_STREAM = 1_000_001


@dataclass(frozen=True)
class JudgeOptions(RunOptions):
    """The judges of identity and pose. All values are chosen."""

    lr: float = 1.5e-3
    batch_size: int = 64
    steps: int = 16000
    weight_decay: float = 0.02
    decay_fraction: float = 0.8
    ema_decay: float = 0.997
    grid_every: int = 0
    margin: float = 0.25
    """By how much a person's cosine must win."""
    scale: float = 24.0
    """Inverse temperature of the cosines."""
    pose_weight: float = 4.0
    """Weight of the pose loss."""
    trait_weight: float = 5.0
    """Weight of reading a person's traits off the embedding; 0 for people who weren't made by seeds."""
    degraded_share: float = 0.4
    """Part of the pictures that is made bad, as level 1 of the evaluation does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        unused = ("tone_probability", "half_base", "gradient_checkpointing", "compile", "degrade_on")
        defaults = {field.name: field.default for field in dataclasses.fields(RunOptions)}
        given = [name for name in unused if getattr(self, name) != defaults[name]]
        if given:
            raise ConfigError(f"{', '.join(given)}: judges are trained without; leave it out")

    @property
    def shardable(self) -> bool:
        """No."""
        return False


@dataclass(frozen=True, eq=False)
class JudgeBatch:
    """Pictures, who they show and from where."""

    images: Tensor  # (B, 3, S, S) in [-1, 1]
    people: Tensor  # (B,) int64
    angles_deg: Tensor  # (B, 3) yaw, pitch, roll
    traits: Tensor  # (B, T)


class TrainedJudges(nn.Module):
    """The network with a centre per person and a map from embeddings to traits, which are left behind afterwards."""

    def __init__(self, people: int, traits: int, options: JudgeOptions) -> None:
        super().__init__()
        config = JudgeConfig(size=SIZE)
        self.judges = JudgeNetwork(config)
        self.centres = nn.Parameter(torch.randn(people, config.embedding))
        self.traits = Linear(config.embedding, traits)
        self.options = options

    def forward(self, batch: JudgeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses; `nearest` and `yaw_error` in degrees are logged. Draws nothing from the generator."""
        embeddings, angles = self.judges(batch.images)
        options = self.options
        identity, nearest = margin_loss(
            embeddings.float(), self.centres.float(), batch.people, options.scale, options.margin
        )
        pose = pose_loss(angles.float(), batch.angles_deg)
        yaw_error = (angles.detach().float() - batch.angles_deg)[:, 0].abs().mean()
        told = self.traits(F.normalize(embeddings.float()) * embeddings.shape[1] ** 0.5)
        traits = F.mse_loss(told, batch.traits) if options.trait_weight else told.sum() * 0
        loss = identity + options.pose_weight * pose + options.trait_weight * traits
        logged = {"identity": identity, "traits": traits, "pose": pose, "nearest": nearest, "yaw_error": yaw_error}
        return {"loss": loss, **logged}


class JudgeStage:
    """The judges' training as the loop sees it."""

    validation_source: ValidationSource = "fixed"

    def __init__(self, options: JudgeOptions, rank: int) -> None:
        torch.manual_seed(options.seed)
        self.options = options
        self.faces = load_faces(options, SIZE, rank)
        require_labelled(self.faces, options.data, JudgeConfig(size=SIZE).size)
        if len(self.faces) < options.batch_size:
            raise ConfigError(f"--batch-size is {options.batch_size}, the folder has {len(self.faces)} pictures")
        self.people, self.angles_deg = labels(self.faces, options)
        count = int(self.people.max()) + 1
        self.traits = trait_table(seeds(options)) if options.trait_weight else torch.zeros(count, 1)
        self.network = TrainedJudges(count, self.traits.shape[1], options)

    def make_batch(self, index: int) -> JudgeBatch:
        """Random pictures, half of them mirrored, some made bad."""
        return self._batch(batch_generator(self.options.seed, index, 0))

    def make_validation_batch(self, index: int) -> JudgeBatch:
        """As for training, from draws that it doesn't make."""
        return self._batch(batch_generator(self.options.seed, index, VALIDATION_STREAM))

    def _batch(self, rng: np.random.Generator) -> JudgeBatch:
        chosen = torch.from_numpy(rng.choice(len(self.faces), self.options.batch_size, replace=False))
        images = to_float(self.faces.sources[0].images(chosen))
        angles = self.angles_deg[chosen]
        mirror = torch.from_numpy(rng.random(len(images)) < 0.5)  # faces are nearly symmetric
        images[mirror] = images[mirror].flip(-1)
        angles[mirror] *= MIRRORED
        levels = np.where(rng.random(len(images)) < self.options.degraded_share, "level1", "level0")
        images = degrade(images, [sample_degradation(rng, PRESETS[level]) for level in levels])
        people = self.people[chosen]
        return JudgeBatch(images, people, angles, self.traits[people])

    def picture(self) -> Picture:
        """There is nothing to draw: pictures of a batch."""
        images = self.make_validation_batch(0).images[:8]
        return Picture(torch.cat(list(images), dim=-1), 0.0)

    def export(self, progress: Progress) -> None:
        """Write the averaged weights."""
        options = {k: v for k, v in dataclasses.asdict(self.options).items() if k not in ("out", "data")}
        record = {"steps": progress.step, "minutes": round(progress.minutes, 2), "git": git_revision()}
        record |= {"people": len(self.network.centres), "pictures": len(self.faces), "options": options}
        save_judges(self.network.judges, self.options.out / "judges.safetensors", record)


def require_labelled(faces: FaceFolder, folders: Sequence[Path], side: int) -> None:
    """Raise ConfigError unless the faces are of one folder, all of side² pixels and of known camera."""
    [source, *more] = faces.sources
    if more:
        raise ConfigError(f"--data: {len(folders)} folders; the judges learn from one")
    if source.side != side:
        raise ConfigError(f"{folders[0]}: pictures of {source.side} px, must have {side}; use training.judges.render")
    unknown = int((~source.has_camera).sum())
    if unknown:
        raise ConfigError(f"{folders[0]}: {unknown} pictures have no camera, which POSE is to tell; leave them out")


def labels(faces: FaceFolder, options: JudgeOptions) -> tuple[Tensor, Tensor]:
    """Who each of the pictures shows (N,), and its camera's yaw, pitch and roll (N, 3)."""
    names = read_index(options.data[0]).only(options.split).subjects
    order = {name: i for i, name in enumerate(dict.fromkeys(names))}
    angles = faces.sources[0].cameras.angles()
    degrees = torch.stack([angles.yaw_deg, angles.pitch_deg, angles.roll_deg], dim=1).float()
    return torch.tensor([order[name] for name in names]), degrees


def seeds(options: JudgeOptions) -> list[int]:
    """Of the people, in the order of `labels`. Raises ConfigError for people who weren't made by seeds."""
    names = dict.fromkeys(read_index(options.data[0]).only(options.split).subjects)
    try:
        return [int(name.removeprefix("person-")) for name in names]
    except ValueError:
        raise ConfigError(
            f"{options.data[0]}: traits are known of rendered people only; give --trait-weight 0"
        ) from None


def train(options: JudgeOptions) -> int:
    """Run the stage; returns the number of steps done in all."""
    return Trainer(JudgeStage(options, process_index(options.timeout_minutes)), options).run()


if __name__ == "__main__":
    sys.exit(run_command(JudgeOptions, train, "training.judges.train"))
