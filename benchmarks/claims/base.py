"""What the experiments share: data, and a small model whose autoencoder and step 1 are trained.

python -m benchmarks.claims.base

Renders 800 synthetic heads, moves the shipped weights to 64² and trains autoencoder and step 1 further there. It can be
killed and started again; the experiments run it themselves if it hasn't been.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from nvb_core.checkpoint import DEFAULT_WEIGHTS, file_sha256, load_model, read_metadata, save_model
from nvb_core.errors import ConfigError
from training import step1, vae
from training.export import MODEL_NAME
from training.heads.dataset import HeadSet, render_set
from training.loop import STATE_NAME, Trainer
from training.options import RunOptions, Step1Options, VAEOptions
from training.state import read_progress, require_same_init

from .start import resized, without_time

START = "start"
"""Stands beside the stages in a checkpoint's training record: what the experiments of a folder started from."""


@dataclass(frozen=True)
class Shared:
    """Where everything lies and how much is spent on what all experiments share."""

    folder: Path = Path("out/claims")
    """Data, models and results."""
    weights: Path = DEFAULT_WEIGHTS
    """Model that experiments start from."""
    size: int = 64
    """Side of the pictures in pixels, where something is trained."""
    identities: int = 800
    """Synthetic heads to train on, eight views each."""
    vae_steps: int = 1000
    """Training steps of the autoencoder, 16 pictures each."""
    step1_steps: int = 2500
    """Training steps of step 1, 16 pictures each."""
    workers: int = 2
    """Processes that render heads."""

    @property
    def heads(self) -> Path:
        """Training data."""
        return self.folder / "heads"

    @property
    def start(self) -> Path:
        """The weights at the size of the experiments."""
        return self.folder / "start.safetensors"

    @property
    def vae(self) -> VAEOptions:
        """Of the autoencoder."""
        return VAEOptions(
            out=self.folder / "vae",
            data=(self.heads,),
            init=self.start,
            steps=self.vae_steps,
            batch_size=16,
            ema_decay=0.995,
            grid_every=0,
        )

    def step1(self, out: str = "step1") -> Step1Options:
        """Of step 1."""
        return Step1Options(
            out=self.folder / out,
            data=(self.heads,),
            init=self.folder / "vae" / MODEL_NAME,
            steps=self.step1_steps,
            decay_fraction=0.6,
            ema_decay=0.998,
            grid_every=0,
        )


def make_base(shared: Shared, time_aware: bool = True) -> Path:
    """Make what is missing; returns the checkpoint after step 1, in which the encoder may be blind to time."""
    _make_start(shared)
    heads = HeadSet(first_seed=0, count=shared.identities, views=8, size=shared.size, samples=4, margin=1.25)
    for _ in render_set(shared.heads, heads, shared.workers, "cpu"):
        pass
    if not is_finished(shared.vae, "vae"):
        vae.train(shared.vae)
    options = shared.step1("step1" if time_aware else "step1-blind")
    if not is_finished(options, "step1"):
        stage = step1.Step1Stage(options, 0)
        if not time_aware:
            without_time(stage.model)
        Trainer(stage, options).run()
    return options.out / MODEL_NAME


def _make_start(shared: Shared) -> None:
    """The weights at the size of the experiments. Raises ConfigError for a folder that started otherwise."""
    start = {"weights": file_sha256(shared.weights), "size": shared.size, "identities": shared.identities}
    if not shared.start.exists():
        model = load_model(shared.weights)
        small = resized(model, shared.size, f"{model.config.name}{shared.size}")
        save_model(small, shared.start, {**model.metadata["training"], START: start})
        return
    found = read_metadata(shared.start)["training"].get(START, {})
    others = [
        f"{key} {found.get(key, 'unknown')}, not {value}" for key, value in start.items() if found.get(key) != value
    ]
    if others:
        raise ConfigError(f"{shared.folder}: starts from {'; '.join(others)}; choose another --folder")


def is_finished(options: RunOptions, stage: str) -> bool:
    """Whether a stage has made all of its steps and written its model. Raises ConfigError if it was from others."""
    model, state = options.out / MODEL_NAME, options.out / STATE_NAME
    progress = read_progress(state)
    if progress.step:
        require_same_init(state, progress, getattr(options, "init", None))
    return model.exists() and read_metadata(model)["training"].get(stage, {}).get("steps") == options.steps


if __name__ == "__main__":
    make_base(tyro.cli(Shared))
