"""Describe a checkpoint or preset: configuration, parameters, cost, training record, licence."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.table import Table
from torch import nn

from ..checkpoint import DEFAULT_WEIGHTS, count_values, file_sha256, read_metadata
from ..config import PRESETS, ModelConfig
from ..errors import ConfigError
from ..flops import count_flops
from ..header import FINGERPRINT
from ..model import NVBModel
from ..sampling import SamplingOptions
from . import PROG, plain_console


@dataclass(frozen=True)
class Options:
    """Describe a checkpoint or preset: configuration, parameters, cost, training record, licence."""

    weights: Path | None = None
    """Model: a .safetensors checkpoint (default: the built-in one)."""
    preset: Literal["mini", "sd15", "sd21"] | None = None
    """A built-in configuration, without weights."""
    views: int = 8
    """Views of the run whose cost is estimated."""
    steps: int = 0
    """Denoising steps of the run whose cost is estimated, 1 to 1000; 0 takes as many as the model is best with."""
    json: bool = False
    """Print one JSON object instead of tables."""


def main(argv: Sequence[str]) -> int:
    """Run `nvb-face info`. Raises CheckpointError or ConfigError."""
    options = tyro.cli(Options, args=list(argv), prog=f"{PROG} info")
    if options.weights and options.preset:
        raise ConfigError("--weights and --preset exclude each other; give one of them")
    if options.views < 1:
        raise ConfigError(f"--views is {options.views}, must be at least 1")
    if options.preset:
        description = describe_model(PRESETS[options.preset], options)
    else:
        description = describe_checkpoint(options.weights or DEFAULT_WEIGHTS, options)
    if options.json:
        print(json.dumps(description, indent=2))
    else:
        print_tables(description)
    return 0


def describe_checkpoint(path: Path, options: Options) -> dict[str, Any]:
    """JSON-able description of a file and its model. Raises CheckpointError."""
    header = read_metadata(path)
    file = {"path": str(path), "bytes": path.stat().st_size, "sha256": file_sha256(path), "values": count_values(path)}
    record = {
        key: header[key] for key in ("license", "base_model", "version", "training", FINGERPRINT) if key in header
    }
    return {"file": file, **record, **describe_model(header["config_object"], options)}


def describe_model(config: ModelConfig, options: Options) -> dict[str, Any]:
    """JSON-able description of a configuration; building it takes seconds and no memory to speak of."""
    flops, steps = count_flops(config), SamplingOptions(options.steps or config.sampling_steps).steps
    return {
        "config": config.to_dict(),
        "parameters": count_parameters(config),
        "flops": {
            "per_face_step": flops.per_face_step,
            "per_view_step": flops.per_view_step,
            "run": flops.total(options.views, steps),
            "stages": asdict(flops),
        },
        "run": {"views": options.views, "steps": steps},
    }


def count_parameters(config: ModelConfig) -> dict[str, int]:
    """Parameters of each module, and their total."""
    with torch.device("meta"):
        model = NVBModel(config)
    parts: dict[str, nn.Module] = {"encoder": model.encoder}
    parts |= {f"view.{name}": part for name, part in model.view.named_children()}
    parts |= {"context": model.context, "unet": model.unet, "vae": model.vae}
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    return {**counts, "total": sum(counts.values())}


def print_tables(description: Mapping[str, Any]) -> None:
    """Show a description on stdout."""
    console = plain_console()
    flops, run = description["flops"], description["run"]
    if "file" in description:
        file = description["file"]
        values = ", ".join(f"{count:,} {name}" for name, count in file["values"].items())
        size = f"{file['bytes'] / 2**20:.1f} MiB"
        rows = {"path": file["path"], "size": size, "sha256": file["sha256"], "values": values}
        rows |= {"licence": description["license"], "base model": description["base_model"]}
        rows |= {f"base's {part}": digits for part, digits in description.get(FINGERPRINT, {}).items()}
        console.print(_table("File", rows.items()))
        console.print(_table("Training", _flatten(description["training"])))
    console.print(_table("Configuration", _flatten(description["config"])))
    console.print(_table("Parameters", ((k, f"{n:,}") for k, n in description["parameters"].items()), numbers=True))
    costs = {
        "per face and step": flops["per_face_step"],
        "per view and step": flops["per_view_step"],
        f"1 face, {run['views']} views, {run['steps']} steps": flops["run"],
    }
    costs |= {f"stage {name}": count for name, count in flops["stages"].items()}
    console.print(_table("GFLOP", ((k, f"{n / 1e9:,.3f}") for k, n in costs.items()), numbers=True))


def _table(title: str, rows: Any, numbers: bool = False) -> Table:
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right" if numbers else "left", overflow="fold")
    for name, value in rows:
        table.add_row(_printable(name), _printable(value))
    return table


def _printable(value: Any) -> str:
    """A file's text, which might steer the terminal."""
    return "".join(c if c.isprintable() else "?" for c in str(value))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings under dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
