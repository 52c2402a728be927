"""A batch of benchmark faces through a model: pictures, and what is measured of them."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nvb_core.cameras import Cameras
from nvb_core.degradation import PRESETS, Degradation, degrade, sample_degradation
from nvb_core.detect import detect_faces
from nvb_core.model import NVBModel
from nvb_core.pipeline import ViewFeatures, build_grid, encode_faces, predict_source
from nvb_core.sampling import SamplingOptions, decode_latents, sample_latents
from nvb_core.timed import TimeConditioned

from .benchmark import FRONTAL_YAW_DEG, BenchmarkFace
from .extra import ExtraMetrics
from .flow import FlowAgreement, flow_agreement
from .judged import Judged, judge
from .metrics import camera_errors, gmsd, ms_ssim, psnr, ssim, warped_psnr
from .niqe import niqe
from .scores import IdentityScores, ViewScores

DEGRADATION_STREAM = 21
"""Separates the degradations drawn here from everything else that is drawn from a seed."""


@dataclass(frozen=True)
class MeasureSettings:
    """How the model is used."""

    level: int
    """Degradation preset."""
    sampling: SamplingOptions
    true_camera: bool
    """Give the model the input's true camera instead of letting it predict."""


@dataclass(frozen=True, eq=False)
class GeneratedFaces:
    """What a model makes of B faces, all images float32 in [-1, 1] on the CPU; None for what it doesn't do."""

    degraded: Tensor  # (B, 3, S, S)
    restored: Tensor  # (B, 3, S, S)
    reconstructed: Tensor | None  # (B, N, 3, S, S) true targets through the autoencoder
    views: Tensor  # (B, N, 3, S, S)
    pairs: Tensor  # (B, 2, 3, S, S)
    predicted: Cameras | None  # B
    seconds: dict[str, float]
    """Of the whole batch, by stage."""


def input_degradation(face: BenchmarkFace, level: int) -> Degradation:
    """What happens to the input view: a pure function of the seed and the level."""
    return sample_degradation(np.random.default_rng([face.seed, DEGRADATION_STREAM]), PRESETS[f"level{level}"])


def degrade_input(face: BenchmarkFace, level: int) -> Tensor:
    """The input view (3, S, S) as the model gets it."""
    return degrade(face.image[None], [input_degradation(face, level)])[0]


@torch.no_grad()
def generate(model: NVBModel, faces: Sequence[BenchmarkFace], settings: MeasureSettings) -> GeneratedFaces:
    """Reconstruct, restore and turn B faces; each comes out as it would alone, whatever the batch.

    That is why they all start from the noise that a single face would (`sample_latents` sees one face of many views).
    """
    seconds: dict[str, float] = {}
    options = settings.sampling
    degraded = torch.stack([degrade_input(face, settings.level) for face in faces])
    with timed(seconds, "autoencoder"):
        reconstructed = _reconstruct(model, torch.cat([face.targets for face in faces]), options)
    features = encode_faces(model, degraded)
    with timed(seconds, "restoration"):
        restored = restore_alike(model, features, len(faces), options)
    with timed(seconds, "views"):
        predicted = predict_source(model, features)
        source = Cameras.cat([face.cameras.input for face in faces]) if settings.true_camera else predicted
        cameras = [Cameras.cat([face.cameras.targets, face.cameras.pair]) for face in faces]
        views = ViewFeatures(model, build_grid(model, features, source, options.fit_steps), cameras)

        def turned(timestep: int, start: int, end: int) -> Tensor:
            return model.context(views.at(timestep, start, end))

        latents = sample_latents(model, turned, 1, len(views.cameras), options)
        images = decode_latents(model, latents, options.views_per_chunk).cpu().unflatten(0, (len(faces), -1))
    return GeneratedFaces(
        degraded=degraded,
        restored=restored,
        reconstructed=reconstructed.unflatten(0, (len(faces), -1)),
        views=images[:, :-2],
        pairs=images[:, -2:],
        predicted=predicted,
        seconds=seconds,
    )


@torch.no_grad()
def restore_alike(model: NVBModel, features: TimeConditioned, count: int, options: SamplingOptions) -> Tensor:
    """Input views (B, 3, S, S) of `count` encoded faces, restored; all start from the noise that one alone would."""

    def restoration(timestep: int, start: int, end: int) -> Tensor:
        return model.context(features.at(timestep)[start:end])

    latents = sample_latents(model, restoration, 1, count, options)
    return decode_latents(model, latents, options.views_per_chunk).cpu()


def _reconstruct(model: NVBModel, images: Tensor, options: SamplingOptions) -> Tensor:
    """Images (M, 3, S, S) through the autoencoder and back."""
    parameter = next(model.vae.parameters())
    latents = torch.cat([model.vae.encode(i.to(parameter.device, parameter.dtype)).float() for i in images.split(8)])
    return decode_latents(model, latents, options.views_per_chunk).cpu()


def score(
    faces: Sequence[BenchmarkFace], generated: GeneratedFaces, machine: str, extra: ExtraMetrics | None = None
) -> list[IdentityScores]:
    """Measure a batch."""
    true_cameras = Cameras.cat([face.cameras.input for face in faces])
    predicted, reconstructed = generated.predicted, generated.reconstructed
    errors = None if predicted is None else camera_errors(predicted, true_cameras)
    seconds = dict(generated.seconds)
    scores = []
    with timed(seconds, "measuring"):
        for i, face in enumerate(faces):
            clean = face.image[None]
            first, second = (
                replace(view, image=image) for view, image in zip(face.pair, generated.pairs[i], strict=True)
            )
            judged = judge(face, generated, i)
            flow = _flow(face, generated.pairs[i])
            scores.append(
                IdentityScores(
                    seed=face.seed,
                    degraded_psnr=float(psnr(generated.degraded[i : i + 1], clean)),
                    restored_psnr=float(psnr(generated.restored[i : i + 1], clean)),
                    camera=None if errors is None else errors[i],
                    pair_psnr=warped_psnr(first, second),
                    true_pair_psnr=warped_psnr(*face.pair),
                    niqe=niqe(generated.views[i]),
                    true_niqe=niqe(face.targets),
                    views=_score_views(
                        face, generated.views[i], None if reconstructed is None else reconstructed[i], judged
                    ),
                    seconds={},
                    machine=machine,
                    restored_identity=judged.restored_identity,
                    degraded_identity=judged.degraded_identity,
                    true_embedding=judged.true_embedding,
                    generated_embedding=judged.generated_embedding,
                    degraded_ssim=float(ssim(generated.degraded[i : i + 1], clean)),
                    restored_ssim=float(ssim(generated.restored[i : i + 1], clean)),
                    flow_psnr=None if flow is None else flow.psnr,
                    flow_share=None if flow is None else flow.share,
                )
            )
        if extra is not None:
            scores = [
                extra.measure(*parts) for parts in zip(scores, faces, generated.views, generated.restored, strict=True)
            ]
    share = {stage: value / len(faces) for stage, value in seconds.items()}
    return [replace(item, seconds=share) for item in scores]


def _flow(face: BenchmarkFace, pair: Tensor) -> FlowAgreement | None:
    """Of generated neighbours (2, 3, S, S), where no depth tells more."""
    return None if any(bool(view.region.any()) for view in face.pair) else flow_agreement(*pair)


def _score_views(
    face: BenchmarkFace, views: Tensor, reconstructed: Tensor | None, judged: Judged
) -> tuple[ViewScores, ...]:
    """views, reconstructed (N, 3, S, S) against the true targets."""
    truth, copies = face.targets, face.image.expand_as(face.targets)
    angles = face.cameras.targets.angles()
    columns = (
        angles.yaw_deg.tolist(),
        angles.pitch_deg.tolist(),
        [None] * len(truth) if reconstructed is None else psnr(reconstructed, truth).tolist(),
        *(metric(views, truth).tolist() for metric in (psnr, ssim, ms_ssim, gmsd)),
        *(metric(copies, truth).tolist() for metric in (psnr, ssim)),
    )
    frontal = (angles.yaw_deg.abs() <= FRONTAL_YAW_DEG).tolist()
    found = [bool(detect_faces(view)) if ask else None for view, ask in zip(views, frontal, strict=True)]
    found_in_truth = [bool(detect_faces(view)) if ask else None for view, ask in zip(truth, frontal, strict=True)]
    return tuple(ViewScores(*row) for row in zip(*columns, found, found_in_truth, *judged.of_views, strict=True))


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Note how long something takes."""
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start


def machine_name(device: torch.device) -> str:
    """The processor that computes: `NVIDIA H200`, or `Intel(R) Xeon(R) ..., 2 cores`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"
