"""How pictures came about, read from the graph that made them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import folder_paths

from ..nvb_core.checkpoint import read_metadata
from ..nvb_core.errors import NVBError
from ..nvb_core.provenance import Provenance
from .files import checkpoint_path, pack_version, sha256

SAMPLERS = ("NVBDDIMSampler", "NVBNovelViews")
LOADERS = ("NVBLoader", "NVBNovelViews")
PHOTOS = ("LoadImage",)
UNKNOWN = "unknown"
UNKNOWN_NUMBER = -1

Prompt: TypeAlias = Mapping[str, Any]


def provenance_of(prompt: Prompt | None, node_id: str | None) -> Provenance:
    """The record of what the node is given.

    What the graph doesn't say, such as a seed that comes from another node, is "unknown" or -1; that the pictures are
    AI-generated is always said.
    """
    nodes = list(ancestors(prompt or {}, str(node_id)))
    sampler, loader, photo = (_first(nodes, names) for names in (SAMPLERS, LOADERS, PHOTOS))
    model, weights_sha256, own_steps = _model(loader.get("checkpoint"))
    source, source_sha256 = _photo(photo.get("image"))
    return Provenance(
        model=model,
        weights_sha256=weights_sha256,
        version=pack_version(),
        seed=_number(sampler.get("seed"), UNKNOWN_NUMBER),
        steps=_number(sampler.get("steps"), UNKNOWN_NUMBER) or own_steps,
        eta=float(_number(sampler.get("eta"), 0 if "preset" in sampler else UNKNOWN_NUMBER)),
        source=source,
        source_sha256=source_sha256,
    )


def ancestors(prompt: Prompt, node_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Class and inputs of the nodes that feed into a node, nearest first, each once."""
    queue, seen = [node_id], {node_id}
    while queue:
        inputs = prompt.get(queue.pop(0), {}).get("inputs", {})
        for value in inputs.values():
            if isinstance(value, list) and len(value) == 2 and str(value[0]) in prompt and str(value[0]) not in seen:
                found = str(value[0])
                seen.add(found)
                queue.append(found)
                yield prompt[found].get("class_type", ""), prompt[found].get("inputs", {})


def _first(nodes: list[tuple[str, dict[str, Any]]], names: tuple[str, ...]) -> dict[str, Any]:
    return next((inputs for name, inputs in nodes if name in names), {})


def _number(value: Any, otherwise: Any) -> Any:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else otherwise


def _model(checkpoint: Any) -> tuple[str, str, int]:
    """Name of the model, hash of its weights, and the denoising steps that it takes by itself."""
    unknown = UNKNOWN, UNKNOWN, UNKNOWN_NUMBER
    if not isinstance(checkpoint, str):
        return unknown
    try:
        path = checkpoint_path(checkpoint)
        config = read_metadata(path)["config_object"]
        return config.name, sha256(path), config.sampling_steps
    except (NVBError, OSError):  # moved or replaced since it was loaded
        return unknown


def _photo(name: Any) -> tuple[str, str]:
    """Name and hash of the photo's file."""
    if not isinstance(name, str) or not folder_paths.exists_annotated_filepath(name):
        return UNKNOWN, UNKNOWN
    path = Path(folder_paths.get_annotated_filepath(name))
    return path.name, sha256(path)
