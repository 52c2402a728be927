"""What is measured of one identity, kept as one JSON file each so that an interrupted evaluation goes on.

None stands for what a method doesn't do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nvb_core.errors import ConfigError
from nvb_core.staging import write_atomically

from .metrics import CameraErrors


@dataclass(frozen=True)
class ViewScores:
    """One target view; PSNR in dB."""

    yaw_deg: float
    pitch_deg: float
    autoencoder_psnr: float | None
    psnr: float
    ssim: float
    ms_ssim: float
    gmsd: float
    copy_psnr: float
    """Of the undegraded input shown instead of the view."""
    copy_ssim: float
    face_found: bool | None
    """In the generated view, if it is frontal enough to be asked."""
    face_found_in_truth: bool | None
    identity: float | None = None
    """Cosine of the ID judge's embeddings of the generated and of the true view."""
    yaw_reading_error_deg: float | None = None
    """What the POSE judge reads in the generated view, against the camera asked for."""
    pitch_reading_error_deg: float | None = None
    true_yaw_reading_error_deg: float | None = None
    """The judge's own error: in the true view."""
    true_pitch_reading_error_deg: float | None = None


@dataclass(frozen=True)
class IdentityScores:
    """One identity; PSNR in dB."""

    seed: int
    degraded_psnr: float
    restored_psnr: float
    camera: CameraErrors | None
    pair_psnr: float | None
    """Generated neighbour warped into the other, on skin; None if they share none."""
    true_pair_psnr: float | None
    niqe: float | None
    """Of the generated views together; None where there is no model of clean pictures."""
    true_niqe: float | None
    views: tuple[ViewScores, ...]
    seconds: Mapping[str, float]
    """This identity's share of each stage."""
    machine: str
    restored_identity: float | None = None
    """Cosine of the ID judge's embeddings of the restored and of the clean input."""
    degraded_identity: float | None = None
    """The same of the degraded input."""
    true_embedding: tuple[float, ...] | None = None
    """The person: mean of the true views' embeddings, of length 1."""
    generated_embedding: tuple[float, ...] | None = None
    """The same of the generated views."""
    identity_margin: float | None = None
    """By how much the generated person is nearer to the true one than to the nearest other of the evaluation."""


def write_scores(scores: IdentityScores, path: Path) -> None:
    """Write one identity's file. Raises OutputError."""
    text = json.dumps(asdict(scores), indent=1)
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_scores(path: Path) -> IdentityScores:
    """Inverse of `write_scores`. Raises ConfigError for a file of another kind."""
    try:
        return scores_from_object(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: not an identity's scores ({error}); delete it to measure it again") from None


def scores_from_object(values: Mapping[str, Any]) -> IdentityScores:
    """Inverse of dataclasses.asdict. Raises ValueError, TypeError or KeyError for anything else."""
    camera = values["camera"] if values["camera"] is None else CameraErrors(**values["camera"])
    views = tuple(ViewScores(**view) for view in values["views"])
    embeddings = {
        name: None if values[name] is None else tuple(values[name])
        for name in ("true_embedding", "generated_embedding")
    }
    return IdentityScores(**{**values, "camera": camera, "views": views, **embeddings})
