"""Resume state of a training run: parameters, their averages and the optimiser's moments, in one safetensors file.

Keys are `param.NAME`, `ema.NAME` and `MOMENT.NAME`, with the moments that `optimizers.moments` lists; the header holds
the run's `Progress`. Tensors are whole, whoever of the processes held which part of them.
There is no random state to keep: every batch and every noise is a pure function of the seed and its index.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nvb_core.errors import CheckpointError, ConfigError
from nvb_core.staging import PARTIAL_SUFFIX, unwritable, write_atomically

from .optimizers import moments, restore_moments
from .shards import part, whole

FORMAT, VERSION = "nvb-face-training-state", 1

Parameters = dict[str, torch.nn.Parameter]


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    step: int = 0
    """Optimiser steps done."""
    minutes: float = 0.0
    """Time trained, over all resumed runs."""
    planned_steps: int = 0
    """Steps that the time budget allows; 0 while that isn't known."""
    budget_minutes: float = 0.0
    """The budget that `planned_steps` is for."""
    skipped_steps: int = 0
    """Steps that changed nothing because a gradient was too large for the loss scale (fp16)."""
    loss_scale: float = 0.0
    """The loss scale after them; 0 without one."""
    scale_age: int = 0
    """Steps since it changed."""
    init_sha256: str = ""
    """Of the weights that the run started from, some of which stay as they are; empty without any."""


def save_state(
    path: Path,
    progress: Progress,
    parameters: Parameters,
    ema: list[Tensor],
    optimizer: torch.optim.Optimizer,
    write: bool = True,
) -> None:
    """Write the state after `progress.step` optimiser steps; the file appears whole or not at all.

    Of a sharded network all processes have to call this, and one of them to `write`.
    """
    tensors: dict[str, Tensor] = {}
    for (name, parameter), average in zip(parameters.items(), ema, strict=True):
        of_parameter = {"param": parameter.detach(), "ema": average, **moments(optimizer, parameter)}
        for kind, tensor in of_parameter.items():
            gathered = whole(tensor)
            if write:
                tensors[f"{kind}.{name}"] = gathered.contiguous()
    if write:
        values = {name: str(value) for name, value in dataclasses.asdict(progress).items()}
        header = {"format": FORMAT, "version": str(VERSION), **values}
        write_atomically(path, lambda partial: save_file(tensors, partial, metadata=header))


def load_state(path: Path, parameters: Parameters, ema: list[Tensor], optimizer: torch.optim.Optimizer) -> Progress:
    """Fill parameters, averages and optimiser from a state; returns how far it has come.

    Raises CheckpointError when the file isn't a state of exactly these parameters.
    """
    try:
        with safe_open(path, framework="pt") as state:
            progress = _parse_header(path, state.metadata())
            remembered = {name: moments(optimizer, parameter) for name, parameter in parameters.items()}
            _check_tensors(path, state, parameters, remembered)
            steps = progress.step - progress.skipped_steps
            with torch.no_grad():
                for (name, parameter), average in zip(parameters.items(), ema, strict=True):
                    parameter.copy_(part(state.get_tensor(f"param.{name}"), parameter))
                    average.copy_(part(state.get_tensor(f"ema.{name}"), average))
                    for kind, moment in remembered[name].items():
                        moment.copy_(part(state.get_tensor(f"{kind}.{name}"), moment))
                    restore_moments(optimizer, parameter, steps, remembered[name])
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from None
    return progress


def read_progress(path: Path) -> Progress:
    """How far the run of a state has come; nothing done if there is no such file. Raises CheckpointError."""
    if not path.exists():
        return Progress()
    try:
        with safe_open(path, framework="pt") as state:
            return _parse_header(path, state.metadata())
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path}: not a readable training state ({error}); delete it to start afresh")


def _parse_header(path: Path, header: dict[str, str] | None) -> Progress:
    header = header or {}
    if (header.get("format"), header.get("version")) != (FORMAT, str(VERSION)):
        raise CheckpointError(f"{path}: not a training state of version {VERSION}; delete it to start afresh")
    try:
        return Progress(
            int(header["step"]),
            float(header.get("minutes", 0)),
            int(header.get("planned_steps", 0)),
            float(header.get("budget_minutes", 0)),
            int(header.get("skipped_steps", 0)),
            float(header.get("loss_scale", 0)),
            int(header.get("scale_age", 0)),
            header.get("init_sha256", ""),
        )
    except (KeyError, ValueError) as error:
        raise _unreadable(path, error) from None


def _check_tensors(path: Path, state: Any, parameters: Parameters, moments: dict[str, dict[str, Tensor]]) -> None:
    shapes = {f"{kind}.{n}": list(p.shape) for n, p in parameters.items() for kind in ("param", "ema")}
    shapes.update({f"{kind}.{n}": list(m.shape) for n, of_n in moments.items() for kind, m in of_n.items()})
    found = {key: state.get_slice(key).get_shape() for key in state.keys()}  # noqa: SIM118 - not a dict
    for key in sorted(shapes.keys() | found.keys()):
        if shapes.get(key) != found.get(key):
            raise CheckpointError(
                f"{path}: {key} is {found.get(key, 'missing')}, this run needs {shapes.get(key, 'no such tensor')}; "
                "use another --out or delete it to start afresh"
            )


def require_same_init(path: Path, progress: Progress, init: Path | None) -> str:
    """Hash of the weights that a run starts from, which have to be those that the run of a state started from.

    What the file's header says of them doesn't count. Raises ConfigError, and CheckpointError where it can't be read.
    """
    found = weights_sha256(init)
    if progress.init_sha256 not in ("", found):
        raise ConfigError(
            f"{path}: this run started from another {init}, whose frozen weights it needs; bring that file back or use "
            "another --out"
        )
    return found


def weights_sha256(path: Path | None) -> str:
    """Of the tensors in a safetensors file; empty without a file. Raises CheckpointError where it can't be read."""
    if path is None or not path.is_file():
        return ""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            file.seek(8 + int.from_bytes(file.read(8), "little"))
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror or error})") from None
    return digest.hexdigest()


def remove_partial_files(folder: Path) -> None:
    """Delete what a killed process left half-written in its folder."""
    for partial in folder.glob(f"*{PARTIAL_SUFFIX}"):
        partial.unlink()


class LossLog:
    """`loss.jsonl`: one line per logged step; lines past a resumed step are dropped."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        self.path = path
        kept = []
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            # A killed process may have left half a line at the end.
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= resumed_step]
        text = "".join(f"{line}\n" for line in kept)
        write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))

    def append(self, step: int, values: dict[str, float]) -> None:
        """Add a line. Raises OutputError."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        except OSError as error:
            raise unwritable(self.path, error) from None
