"""The training record that goes into a checkpoint's header, and the model a stage starts from."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

from nvb_core.adapted import adapted_model, load_adapted
from nvb_core.backbone import read_base
from nvb_core.checkpoint import LICENSE, load_model, read_metadata, save_model
from nvb_core.encoder_init import initialise_encoder
from nvb_core.errors import CheckpointError, ConfigError
from nvb_core.model import NVBModel

from .options import PredictionType, RunOptions
from .state import Progress

MODEL_NAME = "model.safetensors"
EXPORT_OPTIONS = ("strength", "license")
"""What takes effect in an export, and not in a training step."""
LICENSE_ON_BASE = "as the licences of its base model and of its training data allow"


def git_revision() -> str:
    """Commit of the source tree, with `-dirty` if it was changed, or `unknown` outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def start_model(
    init: Path | None,
    base: Path | None = None,
    prediction_type: PredictionType | None = None,
    encoder_init: Path | None = None,
) -> NVBModel:
    """The float32 model to train: a checkpoint's, or without one a new model on top of Stable Diffusion weights.

    A checkpoint that was trained on top of `base` comes with its adapters; a new model's encoder takes from the
    autoencoder `encoder_init` what fits. Raises CheckpointError or ConfigError.
    """
    if init is None:
        if base is None:
            raise ConfigError("a model to train starts from a checkpoint or from Stable Diffusion weights")
        model = adapted_model(read_base(base, prediction_type))
        if encoder_init is not None:
            done = initialise_encoder(model.encoder, encoder_init)
            print(f"encoder: {done.numbers:,} of {done.of_numbers:,} numbers from {encoder_init.name}", file=sys.stderr)
        return model
    if read_metadata(init)["config_object"].base_model == "none":
        return load_model(init, base=base)
    return load_adapted(init, base)


def _recorded(path: Path, stage: str) -> dict[str, Any]:
    """What a stage's earlier export says of it; nothing where there is none that can be read."""
    try:
        record: dict[str, Any] = read_metadata(path)["training"].get(stage, {}) if path.exists() else {}
    except CheckpointError:  # it is about to be replaced
        return {}
    return record


def export_stage(model: NVBModel, stage: str, progress: Progress, options: RunOptions) -> None:
    """Write OUT/model.safetensors (float32), adding this stage to the record of those before it."""
    record: dict[str, Any] = dict(model.metadata.get("training", {}))
    values = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(options).items() if k != "out"}
    values["data"] = [path.name for path in options.data]
    for name in ("init", "base", "latent_cache", "encoder_init"):
        path = getattr(options, name, None)
        if path is not None:
            values[name] = f"{path.parent.name}/{path.name}"
    before = _recorded(options.out / MODEL_NAME, stage)
    if before.get("steps") == progress.step:  # nothing has been trained with other options since
        values = {**before["options"], **{name: values[name] for name in EXPORT_OPTIONS if name in values}}
    record[stage] = {
        "steps": progress.step,
        "minutes": round(progress.minutes, 2),
        "git": git_revision(),
        "options": values,
    }
    own = LICENSE if model.config.base_model == "none" else LICENSE_ON_BASE
    save_model(model, options.out / MODEL_NAME, record, license=options.license or model.metadata.get("license", own))
