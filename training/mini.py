"""Train the `mini` model from nothing within a time budget: autoencoder, restoration, views, sharpness."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nvb_core.checkpoint import load_model, read_metadata, save_model
from nvb_core.errors import ConfigError

from . import step1, step2, vae
from .data import INDEX_NAME, read_index
from .export import MODEL_NAME
from .loop import STATE_NAME, check_budget
from .options import RunOptions, Step1Options, Step2Options, VAEOptions
from .state import Progress, read_progress, require_same_init

SHARES = {"vae": 0.2, "step1": 0.45, "step2": 0.25, "decoder": 0.1}
"""Each stage's part of the time: restoration learns slowest."""
SHARPEN: dict[str, Any] = {"decoder_only": True, "adversarial_weight": 1.0, "denoised_share": 0.5, "lr": 5e-4}
"""Of the last stage, in which the decoder alone learns to finish what the denoiser leaves soft."""

LOOSE_TARGETS = 0.25
"""Of step 2, so that it also learns views from rolled, zoomed and shifted cameras (`benchmarks.framing`)."""

MAKE_HEADS = "nvb-face heads --count 1000 --views 8 --size 128 --margin 1.25 --out"


@dataclass(frozen=True)
class Options:
    """Train the mini model from nothing within a time budget: autoencoder, restoration, views, sharpness.

    Run the same command again after an interruption: it goes on where it stopped.
    """

    minutes: float
    """Time to train, all stages together; loading pictures is not counted."""
    data: tuple[Path, ...]
    """Face folders, as `nvb-face heads` writes them."""
    out: Path = Path("runs/mini")
    """Folder of resume states, logs, pictures and the models of each stage."""
    weights_out: Path | None = None
    """Where to write the trained model; default: nvb-mini.safetensors in --out."""
    seed: int = 0
    """Start of all random numbers."""

    def __post_init__(self) -> None:
        if not 0 < self.minutes < 1e6:
            raise ConfigError(f"--minutes is {self.minutes}, must be positive and below a million")
        if not self.data:
            raise ConfigError("no data folder given; use --data FOLDER")
        for folder in self.data:
            if not (folder / INDEX_NAME).is_file():
                raise ConfigError(
                    f"{folder}: no face folder (it has no {INDEX_NAME}); make one with: {MAKE_HEADS} {folder}"
                )


def main(argv: Sequence[str]) -> int:
    """Run `nvb-face train-mini`."""
    import tyro

    options = tyro.cli(Options, args=list(argv), prog="nvb-face train-mini")
    weights = train(options)
    print(f"trained: {weights}")
    print(f"measure it: nvb-face eval --weights {weights} --out {options.out / 'eval'}")
    print(f"use it:     nvb-face render PHOTO --weights {weights} --out out")
    return 0


def train(options: Options) -> Path:
    """Run the stages that aren't finished yet; returns the checkpoint of float16 weights that it writes."""

    def stage(name: str) -> dict[str, Any]:
        minutes = options.minutes * SHARES[name]
        return {"data": options.data, "seed": options.seed, "out": options.out / name, "budget_minutes": minutes}

    init = options.out / "step1" / MODEL_NAME
    step2_options = Step2Options(**stage("step2"), init=init, loose_targets=LOOSE_TARGETS)
    step2_options = replace(step2_options, data=_folders_with_views(options.data, step2_options.views))
    _run_stage(vae.train, VAEOptions(**stage("vae")))
    _run_stage(step1.train, Step1Options(**stage("step1"), init=options.out / "vae" / MODEL_NAME))
    _run_stage(step2.train, step2_options)
    _run_stage(vae.train, VAEOptions(**stage("decoder"), init=options.out / "step2" / MODEL_NAME, **SHARPEN))

    weights = options.weights_out or options.out / "nvb-mini.safetensors"
    model = load_model(options.out / "decoder" / MODEL_NAME)
    save_model(model, weights, model.metadata["training"], dtype=torch.float16)
    return weights


def _folders_with_views(folders: Sequence[Path], views: int) -> tuple[Path, ...]:
    """The folders that step 2 can use: some subject has a source and `views` target images of known cameras.

    Raises ConfigError, now and not hours later, if there is none.
    """
    most = {folder: read_index(folder).most_views for folder in folders}
    usable = tuple(folder for folder in folders if most[folder] > views)
    if not usable:
        found = max(most.values())
        raise ConfigError(
            f"no subject in {folders[0]} has the {views + 1} images with cameras that step 2 needs (most: {found})"
        )
    return usable


def _run_stage(train_stage: Callable[[Any], int], options: RunOptions) -> None:
    name = options.out.name
    if is_finished(options):
        print(f"{name}: finished")
    else:
        print(f"{name}: about {options.budget_minutes:.3g} minutes in {options.out}", flush=True)
        train_stage(options)


def is_finished(options: RunOptions) -> bool:
    """Whether a stage has used up its budget and exported the model of its last step. Raises NVBError."""
    state, model = options.out / STATE_NAME, options.out / MODEL_NAME
    progress = read_progress(state)
    check_budget(state, progress, options)
    if not 0 < progress.planned_steps <= progress.step or not model.exists():
        return False
    record = read_metadata(model)["training"][options.out.name]
    _require_same_run(options, record["options"], progress)
    return bool(record["steps"] == progress.step)


def _require_same_run(options: RunOptions, recorded: Mapping[str, Any], progress: Progress) -> None:
    """Raise ConfigError if a finished stage was trained on other data, or from other weights."""
    wanted = {"data": [path.name for path in options.data], "seed": options.seed}
    others = [f"{k} {recorded.get(k)} (not {v})" for k, v in wanted.items() if recorded.get(k) != v]
    if others:
        raise ConfigError(f"{options.out} was trained with {', '.join(others)}; choose another --out")
    require_same_init(options.out / STATE_NAME, progress, getattr(options, "init", None))
