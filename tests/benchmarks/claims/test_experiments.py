"""Each experiment from start to end, with a tiny model and one training step."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.claims import correction, feature_loss, one_stage, sampling, time_aware, volume
from benchmarks.claims.base import make_base
from benchmarks.claims.variants import REFERENCE, Experiment, trained, variant_folder
from nvb_core.checkpoint import load_model, save_model
from nvb_core.errors import ConfigError

pytestmark = pytest.mark.usefixtures("accelerate_reset")
Make = Callable[[type[Any]], Any]


def rows(text: str) -> list[str]:
    """First cells of a page's table rows."""
    return [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ") and "---" not in line]


def test_feature_loss_trains_its_variants_from_one_start(experiment: Make) -> None:
    options = experiment(Experiment)
    feature_loss.main(options)
    variants = (REFERENCE, feature_loss.WITHOUT_FEATURE, feature_loss.WITHOUT_DIFFUSION)
    folders = [variant_folder(variant, options, make_base(options)) for variant in variants]
    starts, ends = (
        [load_model(folder / f"{name}.safetensors").state_dict() for folder in folders] for name in ("start", "model")
    )
    assert all(torch.equal(value, other[key]) for other in starts[1:] for key, value in starts[0].items())
    for one, other in itertools.combinations(ends, 2):
        assert any(not torch.equal(value, other[key]) for key, value in one.items())
    text = (options.folder / "feature_loss.md").read_text(encoding="utf-8")
    assert rows(text)[1:] == ["both losses", "without feature loss", "without diffusion loss"]
    assert re.search(r"without feature loss \| \d+\.\d\d dB \([+-]\d+\.\d\d; [+-]\d+\.\d\d to [+-]\d+\.\d\d\)", text)
    written = {path: path.stat().st_mtime_ns for path in options.folder.rglob("*.safetensors")}
    feature_loss.main(options)  # all is there already
    assert {path: path.stat().st_mtime_ns for path in options.folder.rglob("*.safetensors")} == written


def test_a_folder_keeps_to_the_weights_that_it_started_from(experiment: Make) -> None:
    options = experiment(Experiment)
    make_base(options)
    model = load_model(options.weights)
    other = options.folder.parent / "other.safetensors"
    save_model(model.requires_grad_(False), other, {"another": {}})
    with pytest.raises(ConfigError, match=r"from weights [0-9a-f]{64}, not [0-9a-f]{64}; choose another --folder"):
        make_base(replace(options, weights=other))
    with pytest.raises(ConfigError, match="from identities 2, not 3; choose another --folder"):
        make_base(replace(options, identities=3))


def test_variants_of_another_seed_or_base_are_others(experiment: Make) -> None:
    options = experiment(Experiment)
    base = make_base(options)
    folder = variant_folder(REFERENCE, options, base)
    assert variant_folder(REFERENCE, replace(options, seed=1), base) != folder
    assert variant_folder(REFERENCE, options, options.weights) != folder
    assert variant_folder(feature_loss.WITHOUT_FEATURE, options, base).name.startswith("no-feature-loss-1-2-")
    assert trained(REFERENCE, options).parent == folder


def test_every_experiment_can_leave_the_diffusion_loss_out(experiment: Make) -> None:
    options = experiment(Experiment)
    without = load_model(trained(REFERENCE, replace(options, denoised_views=0))).state_dict()
    expected = load_model(trained(feature_loss.WITHOUT_DIFFUSION, options)).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in without.items())


def test_two_stages_turn_the_restored_photo(experiment: Make) -> None:
    options = experiment(Experiment)
    one_stage.main(options)
    text = (options.folder / "one_stage.md").read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("##")] == ["## Level 0", "## Level 1", "## Level 2"]
    assert rows(text)[1:4] == ["one stage", "step 1, then turned", "non-local means, then turned"]


@pytest.mark.parametrize("sigma", [0.02, 0.1])
def test_noise_is_estimated_beside_edges(sigma: float) -> None:
    rng = np.random.default_rng(0)
    pixels = np.where(np.arange(64) < 32, 0.2, 0.8)[:, None, None] + sigma * rng.standard_normal((64, 64, 3))
    assert one_stage.noise_sigma(pixels) == pytest.approx(sigma, rel=0.05)


def test_smoothing_takes_noise_away() -> None:
    clean = torch.linspace(-0.8, 0.8, 32).expand(1, 3, 32, 32)
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    smooth = one_stage.smoothed(noisy)
    assert smooth.shape == clean.shape
    assert smooth.dtype == torch.float32
    assert (smooth - clean).square().mean() < 0.3 * (noisy - clean).square().mean()


def test_others_write_their_tables(experiment: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    options = experiment(Experiment)
    time_aware.main(options)
    blind, seeing = (options.folder / name / "model.safetensors" for name in ("step1-blind", "step1"))
    assert not torch.equal(load_model(blind).encoder.conv_out.weight, load_model(seeing).encoder.conv_out.weight)
    monkeypatch.setattr(volume, "DEPTHS", (4, 2))
    monkeypatch.setattr(volume, "GRIDS", (4,))
    volume.main(options)
    text = (options.folder / "volume.md").read_text(encoding="utf-8")
    assert [row for row in rows(text) if "samples" in row or "cells" in row][1:2] == ["2 samples"]
    sampling.main(experiment(sampling.Options))
    correction.main(experiment(correction.Options))
    text = (options.folder / "correction.md").read_text(encoding="utf-8")
    assert text.count("Rank correlation") == 2


def test_too_few_heads_for_an_interval() -> None:
    with pytest.raises(ConfigError, match="heads_measured is 3"):
        Experiment(heads_measured=3)
