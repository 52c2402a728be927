"""Header of a checkpoint: `format` = nvb-face, `version`, `config`, `base_model`, `training`, `license`.

`training` is a record of data, steps, seed and git revision. A checkpoint that is a difference to Stable Diffusion
weights has their `base_fingerprint` too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .config import ModelConfig
from .errors import CheckpointError, ConfigError

FORMAT, VERSION = "nvb-face", 1
KEYS = ("format", "version", "config", "base_model", "training", "license")
FINGERPRINT = "base_fingerprint"


def build_header(
    config: ModelConfig, training: dict[str, Any], license: str, base_fingerprint: dict[str, str] | None = None
) -> dict[str, str]:
    """What `parse_header` reads."""
    header = {
        "format": FORMAT,
        "version": str(VERSION),
        "config": json.dumps(config.to_dict()),
        "base_model": config.base_model,
        "training": json.dumps(training),
        "license": license,
    }
    return header | ({FINGERPRINT: json.dumps(base_fingerprint)} if base_fingerprint else {})


def parse_header(path: Path, header: dict[str, str] | None) -> dict[str, Any]:
    """A header with its JSON parsed and `config_object`, the ModelConfig. Raises CheckpointError."""
    header = header or {}
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path}: format is {header.get('format')!r}, expected {FORMAT!r}; not an NVB-Face model")
    if header.get("version") != str(VERSION):
        raise CheckpointError(f"{path}: version {header.get('version')!r} isn't known, only {VERSION}; update NVB-Face")
    for key in KEYS:
        if key not in header:
            raise CheckpointError(f"{path}: header lacks {key!r}; write the file with nvb_core.checkpoint.save_model")
    parsed: dict[str, Any] = dict(header)
    for key in ("config", "training", FINGERPRINT):
        if key in header:
            parsed[key] = _json_object(path, key, header[key])
    try:
        config = parsed["config_object"] = ModelConfig.from_dict(parsed["config"])
    except ConfigError as error:
        raise CheckpointError(f"{path}: header config doesn't fit: {error}") from None
    if config.base_model != "none" and set(parsed.get(FINGERPRINT, ())) != {"unet", "vae"}:
        raise CheckpointError(
            f"{path}: is a difference to {config.base_model}, but its header doesn't say to which weights "
            f"({FINGERPRINT}); write the file with nvb_core.checkpoint.save_model"
        )
    return parsed


def _json_object(path: Path, key: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: header {key!r} isn't JSON ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: header {key!r} isn't a JSON object")
    return value
