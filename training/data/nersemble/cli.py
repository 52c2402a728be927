"""`nvb-face data nersemble`: NeRSemble's recordings as a face folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from tyro.conf import Positional

from nvb_core.checkpoint import DEFAULT_WEIGHTS
from nvb_core.errors import ConfigError

from ...heads.cli import cores
from .layout import kit_arguments, read_capture


@dataclass(frozen=True)
class NeRSemble:
    """Turn NeRSemble's recordings into a face folder that training reads: synchronised frames of all cameras, colours
    corrected, each timestep registered to EG3D's space, heads cropped with exact cameras; reports what was dropped.

    Access is granted by NeRSemble's authors, and downloads are their kit's: pip install "nvb-face[nersemble]", then
    --download or the kit's own nersemble-data download SRC --participant 17,18 --sequence EXP-1-head
    """

    src: Positional[Path]
    """Folder that the kit has filled: SRC/017/calibration, SRC/017/sequences, ..."""
    out: Path
    """Face folder to write. The same command goes on after an interruption."""
    download: bool = False
    """Let the kit fetch what SRC lacks first; it says how much that is, and asks."""
    participants: tuple[str, ...] = ()
    """Only these, for example: 017 018; default: all."""
    sequences: tuple[str, ...] = ()
    """Only these, for example: EXP-1-head FREE; default: all."""
    test_participants: tuple[str, ...] = ()
    """Make these the test split of all that OUT holds; default: those that an earlier run was given, else splits by a
    hash of the participant."""
    frames_per_sequence: int = 4
    """Timesteps to take of each sequence, evenly spread."""
    size: int = 512
    """Pixels of the canonical view; images get --margin times as many."""
    margin: float = 1.25
    """Show this many times the canonical view (1 to 2), so that training can jitter crops."""
    color_correction: bool = True
    """Apply the kit's colour calibration of each camera."""
    weights: Path = DEFAULT_WEIGHTS
    """Checkpoint whose encoder finds the head's pose in near-frontal views (default: the built-in one)."""
    device: str = "cpu"
    """Where that runs."""
    workers: int = field(default_factory=cores)
    """Videos read and crops written at once; default: one a core."""

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= 256:
            raise ConfigError(f"--workers is {self.workers}, must be in 1-256")

    def run(self) -> None:
        """Convert and print a summary."""
        from ..convert.run import print_report
        from .convert import Options, convert, predicted_registration

        registration = f"{self.weights.name}, {self.weights.stat().st_size} bytes" if self.weights.is_file() else ""
        if self.download:
            download(self.src, self.participants, self.sequences)
        options = Options(self.size, self.margin, self.frames_per_sequence, self.color_correction, registration)
        capture = read_capture(self.src, self.participants, self.sequences, self.color_correction)
        register = predicted_registration(self.weights, self.device)
        report = convert(capture, self.out, register, options, self.test_participants, self.workers)
        print_report(report, self.out)


def download(root: Path, participants: Sequence[str], sequences: Sequence[str]) -> None:
    """Run the kit's download in this terminal; it asks for the address that comes with access, and to go on.

    Raises ConfigError if the kit isn't installed or fails.
    """
    if find_spec("nersemble_data") is None:
        raise ConfigError('--download needs the official kit; run: pip install "nvb-face[nersemble]"')
    command = [
        sys.executable,
        "-m",
        "nersemble_data.scripts.manage_data",
        *kit_arguments(root, participants, sequences),
    ]
    code = subprocess.run(command, check=False).returncode  # noqa: S603
    if code:
        raise ConfigError(f"{root}: nersemble-data download failed (exit code {code}); see its message above")
