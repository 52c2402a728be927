from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nvb_core.checkpoint import save_model
from nvb_core.config import tiny_config
from nvb_core.errors import ConfigError
from nvb_core.model import NVBModel
from training.options import Step1Options, Step2Options, VAEOptions
from training.step1 import Step1Stage
from training.step2 import Step2Stage
from training.tones import TRUE_COLOURS, Tone, ToneJitter
from training.vae import ImageBatch, VAEStage

WHITE = (1.0, 1.0, 1.0)
AS_IT_IS = Tone(1.0, (0.3, 0.6, 0.1), 1.0, 0.0, 1.0, WHITE)
ALWAYS = ToneJitter(1.0)


def pixel(red: float, green: float, blue: float) -> Tensor:
    """One pixel of values in [0, 1] as an image (1, 3, 1, 1)."""
    return torch.tensor([red, green, blue])[None, :, None, None] * 2 - 1


def toned(tone: Tone, image: Tensor) -> list[float]:
    """Values of the one pixel, in [0, 1]."""
    return ((tone(image)[0, :, 0, 0] + 1) / 2).tolist()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, (0.4, 0.5, 0.2)),
        ({"gamma": 2.0}, (0.16, 0.25, 0.04)),
        ({"saturation": 0.0}, (0.44, 0.44, 0.44)),
        ({"saturation": 0.5}, (0.42, 0.47, 0.32)),
        ({"saturation": 0.0, "film": (0.0, 0.0, 1.0)}, (0.2, 0.2, 0.2)),
        ({"hue_deg": 120.0}, (0.2, 0.4, 0.5)),
        ({"contrast": 2.0}, (0.3, 0.5, 0.0)),
        ({"gains": (1.0, 0.5, 0.25)}, (0.4, 0.25, 0.05)),
    ],
)
def test_each_part_of_a_tone(change: dict[str, float], expected: tuple[float, float, float]) -> None:
    tone = dataclasses.replace(AS_IT_IS, **change)  # type: ignore[arg-type]
    assert toned(tone, pixel(0.4, 0.5, 0.2)) == pytest.approx(expected, abs=2e-6)


def test_all_views_of_a_face_get_one_tone_and_faces_their_own(images: Tensor) -> None:
    alike = images[:1, :1].expand_as(images)
    changed = ALWAYS(alike, np.random.default_rng(0))
    assert all(torch.equal(views, views[:1].expand_as(views)) for views in changed)
    assert len({views.mean().item() for views in changed}) == len(images)
    assert changed.min() >= -1
    assert changed.max() <= 1


def test_share_of_faces_and_of_black_and_white() -> None:
    rng = np.random.default_rng(0)
    tones = [ToneJitter(0.5).sample(rng) for _ in range(2000)]
    changed = [tone for tone in tones if tone is not None]
    assert len(changed) / len(tones) == pytest.approx(0.5, abs=0.04)
    assert np.mean([tone.saturation == 0 for tone in changed]) == pytest.approx(0.4, abs=0.05)
    assert np.mean([tone.hue_deg == 0 for tone in changed]) == pytest.approx(0.5, abs=0.05)
    assert np.mean([tone.gains == WHITE for tone in changed]) == pytest.approx(0.5, abs=0.05)
    assert all(math.isclose(sum(tone.film), 1) for tone in changed)
    assert all(1 / 1.5 <= tone.gamma <= 1.5 and 0.7 <= tone.contrast <= 1.5 for tone in changed)


def test_what_follows_does_not_depend_on_the_outcome() -> None:
    streams = [np.random.default_rng(0), np.random.default_rng(0)]
    assert ToneJitter(1.0).sample(streams[0]) is not None
    assert ToneJitter(0.0).sample(streams[1]) is None
    assert streams[0].random() == streams[1].random()


def test_nothing_is_drawn_where_nothing_changes(images: Tensor) -> None:
    rng = np.random.default_rng(0)
    assert TRUE_COLOURS(images, rng) is images
    assert rng.random() == np.random.default_rng(0).random()


@pytest.mark.parametrize(
    ("stage", "options"), [(VAEStage, VAEOptions), (Step1Stage, Step1Options), (Step2Stage, Step2Options)]
)
def test_each_stage_shows_them(stage: Any, options: Any, faces: Path, tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    save_model(NVBModel(tiny_config()), start, {"vae": {"steps": 1}, "step1": {"steps": 1}})
    plain, toned = (
        stage(options(out=tmp_path, data=(faces,), init=start, batch_size=2, tone_probability=share), 0).make_batch(0)
        for share in (0.0, 1.0)
    )
    name = "images" if isinstance(plain, ImageBatch) else "lq"
    assert not torch.equal(getattr(plain, name), getattr(toned, name))


@pytest.mark.parametrize("change", [{"probability": 1.1}, {"monochrome": -0.1}])
def test_wrong_shares(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="probability and monochrome in 0–1"):
        ToneJitter(**change)
