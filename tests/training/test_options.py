from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from nvb_core.errors import ConfigError
from training.options import RunOptions, Step1Options, Step2Options, VAEOptions

REQUIRED: dict[str, Any] = {"out": Path("runs/x"), "data": (Path("data/heads"),)}
STAGES = {"vae": VAEOptions, "step1": Step1Options, "step2": Step2Options}


def make(stage: str, **changes: Any) -> RunOptions:
    init = {} if stage == "vae" else {"init": Path("model.safetensors")}
    return STAGES[stage](**{**REQUIRED, **init, **changes})


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("batch_size", 0),
        ("accumulate", 0),
        ("log_every", 0),
        ("validation_batches", 0),
        ("validate_every", -1),
        ("timeout_minutes", 0.0),
        ("warmup_steps", -1),
        ("grid_every", -1),
        ("save_minutes", -0.1),
        ("max_minutes", float("nan")),
        ("budget_minutes", -1.0),
        ("weight_decay", -0.1),
        ("lr", 0.0),
        ("lr", 1.0),
        ("decay_fraction", 1.1),
        ("ema_decay", 1.0),
        ("betas", (0.9, 1.0)),
        ("clip_norm", 0.0),
        ("tone_probability", 1.1),
        ("seed", -1),
        ("data", ()),
    ],
)
def test_values_outside_their_range_are_named(stage: str, name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name.split("_")[0]):
        make(stage, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("views", 0),
        ("denoised_views", -1),
        ("denoised_views", 5),
        ("loose_targets", 1.1),
        ("feature_weight", -1.0),
        ("cosine_weight", -1.0),
        ("camera_weight", -1.0),
        ("lift_width", -1),
        ("true_camera_probability", 1.5),
    ],
)
def test_step2_values_outside_their_range(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name.split("_")[0]):
        make("step2", **{name: value})


def test_step1_values_outside_their_range() -> None:
    make("step1", noisy_share=1.0)
    with pytest.raises(ConfigError, match=r"noisy_share is 1\.1, must be in 0–1"):
        make("step1", noisy_share=1.1)


def test_something_must_train_the_views() -> None:
    make("step2", denoised_views=0)
    with pytest.raises(ConfigError, match="nothing would train the views"):
        make("step2", denoised_views=0, feature_weight=0.0)


def test_latents_are_cached_only_for_the_diffusion_loss(tmp_path: Path) -> None:
    make("step2", denoised_views=1, latent_cache=tmp_path)
    with pytest.raises(ConfigError, match="latent_cache"):
        make("step2", latent_cache=tmp_path)


def test_latents_in_other_tones_are_not_cached(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave it or tone_probability out"):
        make("step2", denoised_views=1, latent_cache=tmp_path, tone_probability=0.5)
    with pytest.raises(ConfigError, match="leave it or loose_targets out"):
        make("step2", denoised_views=1, latent_cache=tmp_path, loose_targets=0.5)


@pytest.mark.parametrize("name", ["gradient_weight", "latent_noise", "latent_weight"])
def test_autoencoder_weights_are_not_negative(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        make("vae", **{name: -0.1})


def test_decoder_only_needs_a_trained_autoencoder() -> None:
    with pytest.raises(ConfigError, match="--init"):
        make("vae", decoder_only=True)
    assert make("vae", decoder_only=True, init=Path("model.safetensors")).init == Path("model.safetensors")


@pytest.mark.parametrize("stage", STAGES)
def test_every_option_is_documented_on_the_command_line(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    import tyro

    with pytest.raises(SystemExit) as exit_:
        tyro.cli(STAGES[stage], args=["--help"], config=(tyro.conf.OmitSubcommandPrefixes,))
    assert exit_.value.code == 0
    words = capsys.readouterr().out.replace("\u2502", " ").split()
    options = [field.name for field in dataclasses.fields(STAGES[stage])]
    flags = [
        i for i, word in enumerate(words) if word.startswith("--") and word.strip("-,").replace("-", "_") in options
    ]
    assert len(flags) == len(options)
    for start, end in zip(flags, [*flags[1:], len(words)], strict=True):
        text = " ".join(words[start:end]).split("(default")[0].split("(required")[0].strip()
        assert text.endswith("."), f"no documentation: {text}"


def test_command_line_keeps_the_defaults() -> None:
    import tyro

    argv = "--out runs/x --data data/heads --init model.safetensors"
    assert tyro.cli(Step2Options, args=argv.split()) == make("step2")
