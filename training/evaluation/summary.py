"""From scores per identity to figures: means with bootstrap intervals, held against bars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from .distributions import frechet_distance, kernel_distance
from .metrics import MAX_PSNR_DB, CameraErrors
from .scores import IdentityScores, ViewScores

RESAMPLES = 2000
FEWEST = 4
"""Identities below which there is no interval: a bootstrap over fewer makes it much too narrow (chosen)."""
Part = tuple[float, float]
"""Numerator and denominator of one identity; a figure is the ratio of their sums."""


Interval = tuple[float, float] | tuple[None, None]


def interval(resampled: np.ndarray, identities: int) -> Interval:
    """95 % interval of a figure by its resamples (R,); none over fewer than FEWEST identities."""
    if identities < FEWEST:
        return None, None
    low, high = np.quantile(resampled, [0.025, 0.975]).tolist()
    return low, high


def mean_interval(values: np.ndarray) -> Interval:
    """95 % bootstrap interval of the mean of values (N,), N > 0; none of fewer than FEWEST."""
    picks = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    return interval(values[picks].mean(1), len(values))


@dataclass(frozen=True)
class Measure:
    """A figure and how it is made."""

    key: str
    label: str
    unit: str
    part: Callable[[IdentityScores], Part]
    at_least: float | None = None
    """Bar."""
    at_most: float | None = None
    """Bar."""
    optional: bool = False
    """Not named where nothing was measured."""

    @property
    def bar(self) -> str:
        """`>= 25`, `<= 3` or nothing."""
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return "" if self.at_most is None else f"<= {self.at_most:g}"


@dataclass(frozen=True)
class Figure:
    """A measured value; None where there was nothing to measure."""

    measure: Measure
    value: float | None
    low: float | None
    """95 % bootstrap interval over identities, with `high`; for KID, by leaving one out at a time; none for FID or over
    fewer than FEWEST."""
    high: float | None
    identities: int
    """How many took part."""

    def without_bar(self) -> Figure:
        """The same, held against nothing."""
        return replace(self, measure=replace(self.measure, at_least=None, at_most=None))

    @property
    def passed(self) -> bool | None:
        """Whether the bar is met; None without a bar."""
        measure, value = self.measure, self.value
        if measure.at_least is None and measure.at_most is None:
            return None
        if value is None:
            return False
        return (measure.at_least is None or value >= measure.at_least) and (
            measure.at_most is None or value <= measure.at_most
        )


def _restored_gain(scores: IdentityScores) -> Part:
    """Nothing where the input is the truth, as at level 0."""
    degraded = scores.degraded_psnr
    return _optional(scores.restored_psnr - degraded if degraded < MAX_PSNR_DB else None)


def _view_mean(value: Callable[[ViewScores], float | None]) -> Callable[[IdentityScores], Part]:
    def part(scores: IdentityScores) -> Part:
        values = [value(view) for view in scores.views]
        return _optional(None if None in values or not values else float(np.mean(np.array(values, float))))

    return part


def _camera(error: Callable[[CameraErrors], float]) -> Callable[[IdentityScores], Part]:
    return lambda scores: _optional(None if scores.camera is None else error(scores.camera))


def _optional(value: float | None) -> Part:
    return (0.0, 0.0) if value is None else (value, 1.0)


def _faces_found(scores: IdentityScores) -> Part:
    return (
        float(sum(view.face_found is True for view in scores.views)),
        float(sum(view.face_found_in_truth is True for view in scores.views)),
    )


def _faces_in_truth(scores: IdentityScores) -> Part:
    asked = [view.face_found_in_truth for view in scores.views if view.face_found_in_truth is not None]
    return float(sum(asked)), float(len(asked))


def _of_restoration(key: str, label: str) -> Measure:
    return Measure(key, label, "", lambda s: _optional(getattr(s, key)), optional=True)


MEASURES = (
    Measure("autoencoder_psnr", "autoencoder PSNR", "dB", _view_mean(lambda v: v.autoencoder_psnr), at_least=31),
    Measure("restored_psnr", "restoration PSNR", "dB", lambda s: (s.restored_psnr, 1), at_least=25),
    Measure("restored_gain", "restoration above its input", "dB", _restored_gain, at_least=0, optional=True),
    Measure("psnr", "novel views PSNR", "dB", _view_mean(lambda v: v.psnr), at_least=21.5),
    Measure("psnr_gain", "novel views above copying", "dB", _view_mean(lambda v: v.psnr - v.copy_psnr), at_least=4.5),
    Measure("ssim", "novel views SSIM", "", _view_mean(lambda v: v.ssim), at_least=0.68),
    Measure("yaw_error", "predicted yaw, mean error", "°", _camera(lambda c: c.yaw_deg), at_most=3),
    Measure("pitch_error", "predicted pitch, mean error", "°", _camera(lambda c: c.pitch_deg), at_most=3),
    Measure("faces_found", "faces found, share of true", "", _faces_found, at_least=0.8),
    Measure("pair_psnr", "neighbours 5° apart, skin", "dB", lambda s: _optional(s.pair_psnr), at_least=26),
    Measure("identity", "novel views ID", "", _view_mean(lambda v: v.identity), at_least=0.6),
    Measure("identity_margin", "person above the nearest other", "", lambda s: _optional(s.identity_margin), 0.3),
    Measure("yaw_reading_error", "novel views POSE, yaw", "°", _view_mean(lambda v: v.yaw_reading_error_deg), None, 3),
    Measure("ms_ssim", "novel views MS-SSIM", "", _view_mean(lambda v: v.ms_ssim)),
    Measure("gmsd", "novel views GMSD", "", _view_mean(lambda v: v.gmsd)),
    Measure("lpips_vgg16", "novel views LPIPS (VGG16)", "", _view_mean(lambda v: v.lpips_vgg16), optional=True),
    Measure("lpips_alexnet", "novel views LPIPS (AlexNet)", "", _view_mean(lambda v: v.lpips_alexnet), optional=True),
    Measure("dists", "novel views DISTS", "", _view_mean(lambda v: v.dists), optional=True),
    Measure(
        "plugged_identity", "novel views ID (plugged in)", "", _view_mean(lambda v: v.plugged_identity), optional=True
    ),
    Measure("niqe", "novel views NIQE", "", lambda s: _optional(s.niqe)),
    Measure(
        "true_identity_margin", "true views above the nearest other", "", lambda s: _optional(s.true_identity_margin)
    ),
    Measure("true_niqe", "true views NIQE", "", lambda s: _optional(s.true_niqe)),
    Measure("pitch_reading_error", "novel views POSE, pitch", "°", _view_mean(lambda v: v.pitch_reading_error_deg)),
    Measure("true_yaw_reading_error", "true views POSE, yaw", "°", _view_mean(lambda v: v.true_yaw_reading_error_deg)),
    Measure(
        "true_pitch_reading_error", "true views POSE, pitch", "°", _view_mean(lambda v: v.true_pitch_reading_error_deg)
    ),
    Measure("restored_identity", "restoration ID", "", lambda s: _optional(s.restored_identity)),
    Measure("degraded_identity", "degraded input ID", "", lambda s: _optional(s.degraded_identity)),
    Measure("degraded_psnr", "degraded input PSNR", "dB", lambda s: (s.degraded_psnr, 1)),
    Measure("copy_psnr", "copying the input PSNR", "dB", _view_mean(lambda v: v.copy_psnr)),
    Measure("copy_ssim", "copying the input SSIM", "", _view_mean(lambda v: v.copy_ssim)),
    Measure("roll_error", "predicted roll, mean error", "°", _camera(lambda c: c.roll_deg)),
    Measure("focal_error", "predicted focal, mean error", "%", _camera(lambda c: c.focal_percent)),
    Measure("faces_in_truth", "faces found in true views", "", _faces_in_truth),
    Measure("true_pair_psnr", "true neighbours, skin", "dB", lambda s: _optional(s.true_pair_psnr)),
    Measure("flow_psnr", "neighbours 5° apart, by flow", "dB", lambda s: _optional(s.flow_psnr), optional=True),
    Measure("flow_share", "flow between them agrees, share", "", lambda s: _optional(s.flow_share), optional=True),
    Measure("restored_ssim", "restoration SSIM", "", lambda s: _optional(s.restored_ssim)),
    Measure("degraded_ssim", "degraded input SSIM", "", lambda s: _optional(s.degraded_ssim)),
    _of_restoration("restored_lpips_vgg16", "restoration LPIPS (VGG16)"),
    _of_restoration("restored_lpips_alexnet", "restoration LPIPS (AlexNet)"),
    _of_restoration("restored_dists", "restoration DISTS"),
    _of_restoration("restored_plugged_identity", "restoration ID (plugged in)"),
    _of_restoration("restored_niqe", "restoration NIQE"),
    _of_restoration("clean_niqe", "clean input NIQE"),
)


def summarize(scores: Sequence[IdentityScores]) -> list[Figure]:
    """All figures, those with a bar first, those of whole sets last."""
    return [summarize_measure(measure, scores) for measure in MEASURES] + summarize_sets(scores)


def summarize_sets(scores: Sequence[IdentityScores]) -> list[Figure]:
    """FID and KID over all views, where features of all were kept."""
    features = [item.features for item in scores if item.features is not None]
    if len(features) < len(scores):
        return []
    generated, true = (torch.cat([getattr(item, kind) for item in features]) for kind in ("generated", "true"))
    if len(generated) < 2:
        return []
    views = f"of {len(generated)} {'novel views' if scores[0].views else 'restorations'}"
    fid = Measure("fid", f"FID {views}", "", _no_part)
    kid = Measure("kid_1000", f"KID {views}, × 1000", "", _no_part)
    distance = kernel_distance(features)
    low, high = (None if edge is None else 1000 * edge for edge in (distance.low, distance.high))
    return [
        Figure(fid, frechet_distance(generated, true), None, None, len(scores)),
        Figure(kid, 1000 * distance.value, low, high, len(scores)),
    ]


def _no_part(_: IdentityScores) -> Part:
    return _optional(None)


def summarize_measure(measure: Measure, scores: Sequence[IdentityScores]) -> Figure:
    """One figure over identities (at least one)."""
    parts = np.array([measure.part(item) for item in scores])  # (I, 2)
    picks = np.random.default_rng(0).integers(len(parts), size=(RESAMPLES, len(parts)))
    totals = np.concatenate([parts.sum(0)[None], parts[picks].sum(1)])  # (1 + R, 2)
    numerators, denominators = totals[totals[:, 1] > 0].T
    ratios = numerators / denominators
    taking_part = int((parts[:, 1] > 0).sum())
    if not taking_part:
        return Figure(measure, None, None, None, 0)
    low, high = interval(ratios[1:], taking_part)
    return Figure(measure, float(ratios[0]), low, high, taking_part)


def cells(figure: Figure) -> tuple[str, str, str, str]:
    """Label, value, interval and bar."""
    if figure.value is None:
        return figure.measure.label, "nothing to measure", "", figure.measure.bar
    digits = 2 if figure.measure.unit else 3
    unit = {"": "", "°": "°"}.get(figure.measure.unit, f" {figure.measure.unit}")
    interval = "" if figure.low is None else f"{figure.low:.{digits}f} – {figure.high:.{digits}f}"
    return figure.measure.label, f"{figure.value:.{digits}f}{unit}", interval, figure.measure.bar
