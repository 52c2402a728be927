"""The training record that goes into a checkpoint's header, and the model a stage starts from."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path
from typing import Any

from nvb_core.checkpoint import load_model, save_model
from nvb_core.model import NVBModel

from .options import RunOptions
from .state import Progress

MODEL_NAME = "model.safetensors"


def git_revision() -> str:
    """Commit of the source tree, with `-dirty` if it was changed, or `unknown` outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def start_model(init: Path) -> NVBModel:
    """The float32 model of a checkpoint, all frozen."""
    return load_model(init)


def export_stage(model: NVBModel, stage: str, progress: Progress, options: RunOptions) -> None:
    """Write OUT/model.safetensors (float32), adding this stage to the record of those before it."""
    record: dict[str, Any] = dict(model.metadata.get("training", {}))
    values = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(options).items() if k != "out"}
    values["data"] = [path.name for path in options.data]
    if values.get("init") is not None:
        values["init"] = f"{options.init.parent.name}/{options.init.name}"  # type: ignore[attr-defined]
    record[stage] = {
        "steps": progress.step,
        "minutes": round(progress.minutes, 2),
        "git": git_revision(),
        "options": values,
    }
    save_model(model, options.out / MODEL_NAME, record)
