from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from training.evaluation.distributions import SetFeatures, frechet_distance, kernel_distance
from training.evaluation.metrics import CameraErrors
from training.evaluation.scores import IdentityScores, ViewScores
from training.evaluation.summary import (
    FEWEST,
    MEASURES,
    Figure,
    Measure,
    cells,
    mean_interval,
    summarize,
    summarize_measure,
    summarize_sets,
)

VIEW = ViewScores(
    yaw_deg=10,
    pitch_deg=5,
    autoencoder_psnr=32,
    psnr=22,
    ssim=0.7,
    ms_ssim=0.8,
    gmsd=0.1,
    copy_psnr=16,
    copy_ssim=0.5,
    face_found=True,
    face_found_in_truth=True,
    identity=0.65,
    yaw_reading_error_deg=2.5,
    pitch_reading_error_deg=2.0,
    true_yaw_reading_error_deg=1.5,
    true_pitch_reading_error_deg=1.0,
)
SCORES = IdentityScores(
    seed=1_000_000,
    degraded_psnr=24,
    restored_psnr=26,
    camera=CameraErrors(yaw_deg=2, pitch_deg=1, roll_deg=0.5, focal_percent=3),
    pair_psnr=27,
    true_pair_psnr=38,
    niqe=4,
    true_niqe=2,
    views=(VIEW, replace(VIEW, psnr=24, face_found=None, face_found_in_truth=None)),
    seconds={},
    machine="",
    restored_identity=0.75,
    degraded_identity=0.5,
    identity_margin=0.35,
    true_identity_margin=0.45,
    degraded_ssim=0.6,
    restored_ssim=0.8,
    flow_psnr=30,
    flow_share=0.9,
    restored_niqe=5,
    clean_niqe=3,
)


def named(figures: list[Figure]) -> dict[str, Figure]:
    return {figure.measure.key: figure for figure in figures}


def test_means_over_views_then_identities() -> None:
    other = replace(SCORES, restored_psnr=20, views=(replace(VIEW, psnr=20),), pair_psnr=None)
    figures = named(summarize([SCORES, other]))
    expected = {
        "autoencoder_psnr": 32,
        "restored_psnr": 23,
        "restored_gain": -1,
        "degraded_psnr": 24,
        "psnr": (23 + 20) / 2,
        "psnr_gain": (7 + 4) / 2,
        "copy_psnr": 16,
        "copy_ssim": 0.5,
        "ssim": 0.7,
        "ms_ssim": 0.8,
        "gmsd": 0.1,
        "niqe": 4,
        "true_niqe": 2,
        "yaw_error": 2,
        "pitch_error": 1,
        "roll_error": 0.5,
        "focal_error": 3,
        "faces_found": 1,
        "faces_in_truth": 1,
        "pair_psnr": 27,
        "true_pair_psnr": 38,
        "identity": 0.65,
        "identity_margin": 0.35,
        "true_identity_margin": 0.45,
        "yaw_reading_error": 2.5,
        "pitch_reading_error": 2.0,
        "true_yaw_reading_error": 1.5,
        "true_pitch_reading_error": 1.0,
        "restored_identity": 0.75,
        "degraded_identity": 0.5,
        "degraded_ssim": 0.6,
        "restored_ssim": 0.8,
        "flow_psnr": 30,
        "flow_share": 0.9,
        "restored_niqe": 5,
        "clean_niqe": 3,
    }
    found = {key: figure.value for key, figure in figures.items() if figure.value is not None}
    assert found == pytest.approx(expected)
    assert figures["pair_psnr"].identities == 1
    assert figures["psnr"].identities == 2
    assert (figures["psnr"].low, figures["psnr"].high) == (None, None)  # two say nothing of all


def test_faces_found_is_a_ratio_of_counts() -> None:
    def views(generated: int, true: int, frontal: int) -> IdentityScores:
        return replace(
            SCORES,
            views=tuple(replace(VIEW, face_found=i < generated, face_found_in_truth=i < true) for i in range(frontal)),
        )

    figures = named(summarize([views(1, 3, 4), views(2, 2, 4), views(0, 0, 2)]))
    assert figures["faces_found"].value == pytest.approx(3 / 5)
    assert figures["faces_found"].passed is False
    assert figures["faces_in_truth"].value == pytest.approx(5 / 10)


def test_bars() -> None:
    figures = named(summarize([SCORES]))
    assert all(figure.passed in (True, None) for figure in figures.values())
    assert sum(figure.passed is not None for figure in figures.values()) == 13
    for change in (
        {"restored_psnr": 24.9},
        {"degraded_psnr": 27.0},
        {"camera": CameraErrors(3.1, 1, 0, 0)},
        {"camera": CameraErrors(2, 3.1, 0, 0)},
        {"pair_psnr": 25.9},
        {"identity_margin": 0.29},
        {"pair_psnr": None},
        {"views": (replace(VIEW, autoencoder_psnr=30.9),)},
        {"views": (replace(VIEW, psnr=21.4),)},
        {"views": (replace(VIEW, copy_psnr=18.0),)},
        {"views": (replace(VIEW, ssim=0.679),)},
        {"views": (replace(VIEW, face_found=False),)},
    ):
        missed = [f for f in summarize([replace(SCORES, **change)]) if f.passed is False]
        assert len(missed) == 1, change


def test_bars_include_their_edge_and_can_be_taken_away() -> None:
    for bar in ({"at_least": 3.0}, {"at_most": 3.0}):
        figure = Figure(Measure("x", "x", "", lambda _: (3, 1), **bar), 3.0, 3.0, 3.0, 1)
        assert figure.passed is True
        assert figure.without_bar() == replace(figure, measure=figure.without_bar().measure)
        assert (figure.without_bar().passed, figure.without_bar().measure.bar) == (None, "")


@pytest.mark.parametrize(
    ("unit", "value", "shown"),
    [("dB", 26.1251, "26.13 dB"), ("", 0.6514, "0.651"), ("°", 2.25, "2.25°"), ("%", 3.0, "3.00 %")],
)
def test_cells(unit: str, value: float, shown: str) -> None:
    measure = Measure("x", "label", unit, lambda _: (0, 1), at_least=1.5)
    digits = 3 if unit == "" else 2
    interval = f"{1:.{digits}f} – {30:.{digits}f}"
    assert cells(Figure(measure, value, 1.0, 30.0, 2)) == ("label", shown, interval, ">= 1.5")
    assert cells(Figure(measure, value, None, None, 2)) == ("label", shown, "", ">= 1.5")
    assert cells(Figure(measure, None, None, None, 0)) == ("label", "nothing to measure", "", ">= 1.5")


@pytest.mark.parametrize("count", [1, FEWEST - 1, FEWEST])
def test_few_identities_have_no_interval(count: int) -> None:
    scores = [replace(SCORES, restored_psnr=20.0 + i) for i in range(count)]
    figure = named(summarize(scores))["restored_psnr"]
    assert figure.value == pytest.approx(20 + (count - 1) / 2)
    if count < FEWEST:
        assert (figure.low, figure.high) == (None, None)
    else:
        assert figure.low is not None
        assert figure.high is not None
        assert 20 <= figure.low < figure.value < figure.high <= 20 + count


def test_nothing_is_gained_over_an_input_that_is_the_truth() -> None:
    figure = named(summarize([replace(SCORES, degraded_psnr=100.0)]))["restored_gain"]
    assert (figure.value, figure.identities, figure.measure.optional) == (None, 0, True)


def test_nothing_to_measure() -> None:
    [figure] = [f for f in summarize([replace(SCORES, pair_psnr=None)]) if f.measure.key == "pair_psnr"]
    assert (figure.value, figure.low, figure.high, figure.identities) == (None, None, None, 0)
    assert figure.passed is False
    assert named(summarize([replace(SCORES, views=())]))["psnr"].value is None


def test_interval_agrees_with_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(20, 3, 400)
    scores = [replace(SCORES, degraded_psnr=float(value)) for value in values]
    measure = Measure("x", "x", "dB", lambda s: (s.degraded_psnr, 1))
    figure = summarize_measure(measure, scores)
    half = 1.96 * values.std(ddof=1) / math.sqrt(len(values))
    assert figure.value == pytest.approx(values.mean())
    assert figure.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert figure.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert mean_interval(values) == pytest.approx((figure.low, figure.high))
    assert figure.passed is None
    assert summarize_measure(measure, scores) == figure  # resampling is seeded


def test_figures_of_whole_sets() -> None:
    rng = torch.Generator().manual_seed(0)
    features = [SetFeatures(*torch.randn(2, 3, 8, generator=rng)) for _ in range(4)]
    scores = [replace(SCORES, features=item) for item in features]
    figures = summarize(scores)
    fid, kid = figures[-2:]
    generated, true = (torch.cat([getattr(item, kind) for item in features]) for kind in ("generated", "true"))
    assert fid.value == frechet_distance(generated, true)
    assert (fid.low, fid.high, fid.identities, fid.measure.label) == (None, None, 4, "FID of 12 novel views")
    expected = kernel_distance(features)
    assert expected.low is not None
    assert (kid.value, kid.low) == pytest.approx((1000 * expected.value, 1000 * expected.low))
    assert kid.measure.label == "KID of 12 novel views, × 1000"
    of_restorations = [replace(item, views=()) for item in scores]
    assert summarize_sets(of_restorations)[0].measure.label == "FID of 12 restorations"
    assert summarize_sets([*scores, SCORES]) == []  # not of a part of the views
    assert summarize_sets([replace(SCORES, features=SetFeatures(torch.ones(1, 8), torch.ones(1, 8)))]) == []


def test_metrics_have_values_where_they_were_measured() -> None:
    measured = replace(SCORES, views=(replace(VIEW, dists=0.2), replace(VIEW, dists=0.4)))
    assert named(summarize([measured]))["dists"].value == pytest.approx(0.3)
    assert named(summarize([SCORES]))["dists"].value is None


def test_keys_are_unique() -> None:
    assert len({measure.key for measure in MEASURES}) == len(MEASURES)
