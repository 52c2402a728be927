"""What is measured of one identity, kept as one JSON file each so that an interrupted evaluation goes on.

None stands for what a method doesn't do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from nvb_core.errors import ConfigError
from nvb_core.staging import write_atomically

from .distributions import SetFeatures
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
    lpips_vgg16: float | None = None
    lpips_alexnet: float | None = None
    dists: float | None = None
    plugged_identity: float | None = None
    """Cosine of a given network's embeddings of the generated and of the true view."""


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
    true_identity_margin: float | None = None
    """The same of the true views: what perfect pictures would have."""
    degraded_ssim: float | None = None
    restored_ssim: float | None = None
    flow_psnr: float | None = None
    """Generated neighbour warped into the other by optical flow where that agrees both ways; only without depth."""
    flow_share: float | None = None
    """Of the pixels, where it does."""
    restored_niqe: float | None = None
    """Of the restoration alone; only where there are no views."""
    clean_niqe: float | None = None
    restored_lpips_vgg16: float | None = None
    restored_lpips_alexnet: float | None = None
    restored_dists: float | None = None
    restored_plugged_identity: float | None = None
    features: SetFeatures | None = field(default=None, compare=False)
    """Of its views, or of its restoration where it has none, for figures of whole sets; in a file of its own."""


def scores_to_object(scores: IdentityScores) -> dict[str, Any]:
    """JSON-able; without the features."""
    return asdict(replace(scores, features=None))


def write_scores(scores: IdentityScores, path: Path) -> None:
    """Write one identity's file, that of its features first. Raises OutputError."""
    features = path.with_suffix(".safetensors")
    if scores.features is not None:
        scores.features.save(features)
    values = {**scores_to_object(scores), "features": None if scores.features is None else features.name}
    text = json.dumps(values, indent=1)
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_scores(path: Path) -> IdentityScores:
    """Inverse of `write_scores`. Raises ConfigError for a file of another kind."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        name = values["features"]
        features = None if name is None else SetFeatures.load(path.with_name(name))
        return replace(scores_from_object(values), features=features)
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise ConfigError(f"{path}: not an identity's scores ({error}); delete it to measure it again") from None


def scores_from_object(values: Mapping[str, Any]) -> IdentityScores:
    """Inverse of `scores_to_object`. Raises ValueError, TypeError or KeyError for anything else."""
    camera = values["camera"] if values["camera"] is None else CameraErrors(**values["camera"])
    views = tuple(ViewScores(**view) for view in values["views"])
    names = ("true_embedding", "generated_embedding")
    embeddings = {name: None if values[name] is None else tuple(values[name]) for name in names}
    return IdentityScores(**{**values, "camera": camera, "views": views, "features": None, **embeddings})
