"""Convert other data sets for training, look at any, and draw pictures of nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, subcommand

from nvb_core.errors import ConfigError
from nvb_core.sheet import MAX_VIEWS
from nvb_core.staging import write_atomically

from ..heads.cli import cores
from .convert.faces import Subjects
from .convert.plan import Plan
from .nersemble.cli import NeRSemble


@dataclass(frozen=True)
class Common(ABC):
    """What all kinds share."""

    src: Positional[Path]
    """Folder of the source."""
    out: Path
    """Face folder to write. The same command goes on after an interruption."""
    workers: int = field(default_factory=cores)
    """Threads; default: one a core."""

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= 256:
            raise ConfigError(f"--workers is {self.workers}, must be in 1-256")
        size = getattr(self, "size", None)
        if size is not None and not 16 <= size <= 4096:
            raise ConfigError(f"--size is {size}, must be in 16-4096")

    @abstractmethod
    def plan(self) -> Plan:
        """What the source holds."""


@dataclass(frozen=True)
class EG3D(Common):
    """FFHQ, CelebA or any other folder with EG3D's dataset.json; mirrored images stay with their originals."""

    size: int | None = None
    """Pixels to scale images to; default: as they are."""

    def plan(self) -> Plan:
        from .convert.eg3d import plan_eg3d

        return plan_eg3d(self.src)


@dataclass(frozen=True)
class Generated(Common):
    """Heads that EG3D or PanoHead has generated: a folder per head with dataset.json or a label beside each image
    (.json, .txt or .npy of 25 numbers), or the strips of views that their gen_samples.py writes."""

    size: int | None = None
    """Pixels to scale images to; default: as they are."""
    pivot_z: float | None = None
    """Strips only: z of the point that cameras look at; default: EG3D's 0.2 for three views, PanoHead's 0 for five."""

    def plan(self) -> Plan:
        from .convert.generated import plan_generated

        return plan_generated(self.src, self.pivot_z)


@dataclass(frozen=True)
class Transforms(Common):
    """nerfstudio's transforms.json of undistorted pictures, one for SRC or for each folder in it; heads are cropped."""

    size: int = 512
    """Pixels of the canonical view; images get --margin times as many."""
    margin: float = 1.25
    """Show this many times the canonical view (1 to 2), so that training can jitter crops."""
    similarity: Path | None = None
    """JSON file with the 4x4 matrix that takes the scene into EG3D's space (y up, face along +z, head's centre at the
    origin, cameras 2.7 away); without it the scene must be there."""

    def plan(self) -> Plan:
        from .convert.transforms import plan_transforms

        return plan_transforms(self.src, self.similarity, self.margin)


@dataclass(frozen=True)
class Faces(Common):
    """A plain folder of faces without cameras, for the autoencoder, step 1 and, with --own-views, step 2."""

    size: int = 512
    """Pixels of the aligned crop; images get --margin times as many."""
    margin: float = 1.0
    """Show this many times the aligned crop (1 to 2); with --no-crop: that the pictures do."""
    crop: bool = True
    """Find the largest face and take its aligned crop; --no-crop takes whole, square pictures."""
    subjects: Subjects = "image"
    """Whether each image or each folder of images is a subject."""

    def plan(self) -> Plan:
        from .convert.faces import plan_faces

        return plan_faces(self.src, self.crop, self.margin, self.subjects)


Kind = (
    Annotated[EG3D, subcommand("eg3d")]
    | Annotated[Generated, subcommand("generated")]
    | Annotated[Transforms, subcommand("transforms")]
    | Annotated[Faces, subcommand("faces")]
)


@dataclass(frozen=True)
class Convert:
    """Turn another data set into a face folder that training reads, and report what was dropped and why."""

    kind: OmitSubcommandPrefixes[OmitArgPrefixes[Kind]]

    def run(self) -> None:
        """Convert and print a summary."""
        from .convert.run import print_report, run

        options = self.kind
        print_report(run(options.plan(), options.out, options.size, options.workers), options.out)


@dataclass(frozen=True)
class Sheet:
    """A contact sheet of a face folder: random subjects and views, the axes of their labels, and all cameras."""

    folder: Positional[Path]
    """Face folder."""
    out: Path = Path("sheet.png")
    """Picture to write (PNG)."""
    subjects: int = 6
    """Rows."""
    views: int = 8
    """Columns."""
    seed: int = 0
    """Which subjects and views."""

    def __post_init__(self) -> None:
        if min(self.subjects, self.views) < 1 or self.subjects * self.views > MAX_VIEWS:
            raise ConfigError(f"--subjects times --views is {self.subjects * self.views}, must be in 1-{MAX_VIEWS}")
        if self.seed < 0:
            raise ConfigError(f"--seed is {self.seed}, must be at least 0")

    def run(self) -> None:
        """Draw and write."""
        from .sheet import draw_sheet

        sheet = draw_sheet(self.folder, self.subjects, self.views, self.seed)
        write_atomically(self.out, lambda partial: sheet.save(partial, format="PNG"))
        print(f"wrote {self.out}")


@dataclass(frozen=True)
class Leaves:
    """Pictures of nothing (dead leaves), so that step 1 learns to restore more than heads and step 2, with --own-views,
    to hold more; no cameras.

    The same seed gives the same picture. The same command goes on after an interruption; more pictures go into the same
    folder with a larger --count.
    """

    out: Path
    """Folder to write."""
    count: int = 1000
    """Pictures."""
    size: int = 128
    """Pixels on a side without the margin, 16-2048."""
    margin: float = 1.25
    """Draw this many times as far (1 to 2), so that training can jitter crops."""
    first_seed: int = 0
    """Seed of the first picture."""

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 2048:
            raise ConfigError(f"--size is {self.size}, must be in 16-2048")
        if not 1 <= self.margin <= 2:
            raise ConfigError(f"--margin is {self.margin}, must be in 1-2")
        if self.count < 1 or not 0 <= self.first_seed <= 10**8 - self.count:
            raise ConfigError(f"--count {self.count} from --first-seed {self.first_seed}: seeds must be in 0-99999999")

    def run(self) -> None:
        """Draw and write."""
        from .leaves import write_leaves

        fresh = write_leaves(self.out, self.count, self.size, self.margin, self.first_seed)
        print(f"wrote {self.out}: {self.count} pictures, {fresh} of them now")


Command = (
    Annotated[Convert, subcommand("convert")]
    | Annotated[NeRSemble, subcommand("nersemble")]
    | Annotated[Sheet, subcommand("sheet")]
    | Annotated[Leaves, subcommand("leaves")]
)


def main(argv: Sequence[str]) -> int:
    """Run `nvb-face data`. Raises NVBError."""
    command: Convert | NeRSemble | Sheet | Leaves = tyro.cli(Command, args=list(argv), prog="nvb-face data")
    command.run()
    return 0
