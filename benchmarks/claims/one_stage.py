"""Claim 1: one stage beats restoring first and turning then, the more so the worse the photo.

python -m benchmarks.claims.one_stage

All at 64² and of the same budget. One stage: the reference. Two stages: step 1 restores the photo, and a view model
that was trained on clean photos turns the restored one. Instead of step 1 also a restorer that anyone may ship
(scikit-image's non-local means); restorers with learned weights are either not free for all uses or a download, so
bring their pictures by `nvb-face eval --method`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import tyro
from scipy.ndimage import convolve
from skimage.restoration import denoise_nl_means
from torch import Tensor

from nvb_core.model import NVBModel
from nvb_core.pipeline import restore
from training.evaluation.benchmark import BenchmarkFace
from training.evaluation.measure import GeneratedFaces, MeasureSettings, degrade_input, generate

from .table import method_table, write_result
from .variants import REFERENCE, Experiment, Variant, measured, prepared, trained

CLEAN = Variant("clean", training={"degradation": "level0"})
LEVELS = (0, 1, 2)


def noise_sigma(pixels: np.ndarray) -> float:
    """Deviation of the white noise in (H, W, 3), by its response to a mask that is blind to edges (Immerkær 1996)."""
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])[..., None]
    response = convolve(pixels.astype(np.float64), mask)[1:-1, 1:-1]
    return float(np.sqrt(np.pi / 2) * np.abs(response).mean() / 6)


def smoothed(degraded: Tensor) -> Tensor:
    """Non-local means of (B, 3, S, S) in [-1, 1], as strong as the noise that is found."""
    results = []
    for image in degraded:
        pixels = ((image + 1) / 2).permute(1, 2, 0).numpy()
        sigma = noise_sigma(pixels)
        clean = denoise_nl_means(pixels, h=0.8 * sigma, sigma=sigma, patch_size=5, fast_mode=True, channel_axis=-1)
        results.append(torch.from_numpy(clean).float().permute(2, 0, 1) * 2 - 1)
    return torch.stack(results).clamp(-1, 1)


def turned(
    model: NVBModel, faces: Sequence[BenchmarkFace], settings: MeasureSettings, photos: Tensor
) -> GeneratedFaces:
    """What a model makes of given photos (B, 3, S, S) of the faces; these count as the restorations."""
    given = [replace(face, image=photo) for face, photo in zip(faces, photos, strict=True)]
    generated = generate(model, given, replace(settings, level=0))
    degraded = torch.stack([degrade_input(face, settings.level) for face in faces])
    return replace(generated, degraded=degraded, restored=photos)


def main(experiment: Experiment) -> None:
    """Train, measure, write."""
    one, two = trained(REFERENCE, experiment), trained(CLEAN, experiment)
    one_stage, clean = prepared(experiment.load(one), REFERENCE), prepared(experiment.load(two), CLEAN)

    def degraded(faces: Sequence[BenchmarkFace], settings: MeasureSettings) -> Tensor:
        return torch.stack([degrade_input(face, settings.level) for face in faces])

    def restored(faces: Sequence[BenchmarkFace], settings: MeasureSettings) -> GeneratedFaces:
        photos = restore(one_stage, degraded(faces, settings), settings.sampling).cpu()
        return turned(clean, faces, settings, photos)

    def denoised(faces: Sequence[BenchmarkFace], settings: MeasureSettings) -> GeneratedFaces:
        return turned(clean, faces, settings, smoothed(degraded(faces, settings)))

    sections = {}
    for level in LEVELS:
        sections[f"Level {level}"] = method_table(
            {
                "one stage": measured("reference", [one], partial(generate, one_stage), level, experiment),
                "step 1, then turned": measured("restored", [one, two], restored, level, experiment),
                "non-local means, then turned": measured("denoised", [two], denoised, level, experiment),
            }
        )
    write_result(
        experiment.folder / "one_stage.md",
        "One stage against two",
        sections,
        "In brackets: difference to one stage and its 95 % interval, paired over heads.",
    )


if __name__ == "__main__":
    main(tyro.cli(Experiment))
