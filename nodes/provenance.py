"""How pictures came about, read from the graph that made them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import folder_paths

from ..nvb_core.checkpoint import read_metadata
from ..nvb_core.errors import NVBError
from ..nvb_core.fit import FIT_STEPS
from ..nvb_core.provenance import Provenance, source_name
from .files import checkpoint_path, pack_version, sha256

SAMPLERS = ("NVBDDIMSampler", "NVBNovelViews")
KSAMPLERS = ("KSampler", "KSamplerAdvanced")
APPLY = "NVBApplyToModel"
GRIDS = ("NVBBuildGrid", "NVBNovelViews")
LOADERS = ("NVBLoader", "NVBNovelViews")
PHOTOS = ("LoadImage",)
PICTURES = {"IMAGE", "VIDEO"}
PLAIN = {"STRING", "INT", "FLOAT", "BOOLEAN", "COMBO"}
"""Types of values that a loader of pictures may be given."""
UNKNOWN = "unknown"
UNKNOWN_NUMBER = -1

Prompt: TypeAlias = Mapping[str, Any]
T = TypeVar("T")


def provenance_of(prompt: Prompt | None, node_id: str | None) -> Provenance:
    """The record of what the node is given.

    What the graph doesn't say, such as a seed that comes from another node, is "unknown" or -1, and so is what it says
    twice: of a batch of several photos it can't be told which picture is of which. That the pictures are AI-generated
    is always said.
    """
    graph, node = prompt or {}, str(node_id)
    nodes = list(ancestors(graph, node))
    draws = partial(_draws_views, graph)
    samplers = [inputs for name, inputs in ancestors(graph, node, draws) if draws(name, inputs)]
    models = [_model(loader.get("checkpoint")) for loader in _inputs(nodes, LOADERS)]
    model, weights_sha256, own_steps = _sole(models, (UNKNOWN, UNKNOWN, UNKNOWN_NUMBER))
    source, source_sha256 = _sole(list(_photos(graph, node)), (UNKNOWN, UNKNOWN))
    return Provenance(
        model=model,
        weights_sha256=weights_sha256,
        version=pack_version(),
        seed=_sole([_number(sampler.get("seed", sampler.get("noise_seed"))) for sampler in samplers], UNKNOWN_NUMBER),
        steps=_sole([_number(sampler.get("steps")) for sampler in samplers], UNKNOWN_NUMBER) or own_steps,
        eta=_sole([_eta(sampler) for sampler in samplers], float(UNKNOWN_NUMBER)),
        fit_steps=_sole([_number(grid.get("fit_steps", FIT_STEPS)) for grid in _inputs(nodes, GRIDS)], UNKNOWN_NUMBER),
        source=source,
        source_sha256=source_sha256,
    )


def _draws_views(prompt: Prompt, name: str, inputs: Mapping[str, Any]) -> bool:
    """Whether a node is a sampler of ours, or core's with a model that Apply to Model has made draw views."""
    if name not in KSAMPLERS:
        return name in SAMPLERS
    model_alone = {"": {"inputs": {"model": inputs.get("model")}}}
    return any(above == APPLY for above, _ in ancestors({**prompt, **model_alone}, ""))


def ancestors(
    prompt: Prompt,
    node_id: str,
    is_end: Callable[[str, Mapping[str, Any]], bool] = lambda *_: False,
    follows: Callable[[list[Any]], bool] = lambda _: True,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Class and inputs of the nodes that feed into a node by links to follow, nearest first, each once.

    What feeds into a node at which the search ends, and into nothing else, is left out.
    """
    queue, seen = [node_id], {node_id}
    while queue:
        for link in _links(prompt, prompt.get(queue.pop(0), {}).get("inputs", {})):
            found = str(link[0])
            if found not in seen and follows(link):
                seen.add(found)
                name, its_inputs = prompt[found].get("class_type", ""), prompt[found].get("inputs", {})
                if not is_end(name, its_inputs):
                    queue.append(found)
                yield name, its_inputs


def _links(prompt: Prompt, inputs: Mapping[str, Any]) -> list[list[Any]]:
    """Those of a node's inputs that are outputs of other nodes: [id, which]."""
    return [v for v in inputs.values() if isinstance(v, list) and len(v) == 2 and str(v[0]) in prompt]


def _photos(prompt: Prompt, node_id: str) -> Iterator[tuple[str, str]]:
    """Name and hash of each picture that a node's come from; of what isn't loaded from a photo's file, "unknown".

    Masks say where a face is, not which.
    """

    def kind(link: list[Any]) -> str:
        return _link_type(prompt, *link)

    for name, inputs in ancestors(prompt, node_id, follows=lambda link: kind(link) != "MASK"):
        if name in PHOTOS:
            yield _photo(inputs.get("image"))
        elif PICTURES & {*_output_types(name)} and not {kind(link) for link in _links(prompt, inputs)} - PLAIN:
            yield UNKNOWN, UNKNOWN


def _output_types(name: str) -> list[str]:
    """Of a class of nodes; none if it isn't known."""
    core: Any = import_module("nodes")  # ComfyUI's, not this package
    types = getattr(core.NODE_CLASS_MAPPINGS.get(name), "RETURN_TYPES", ())
    return [kind if isinstance(kind, str) else "COMBO" for kind in types]  # which lists its choices


def _link_type(prompt: Prompt, node_id: Any, output: Any) -> str:
    types = _output_types(prompt[str(node_id)].get("class_type", ""))
    return types[output] if isinstance(output, int) and output < len(types) else UNKNOWN


def _inputs(nodes: Iterable[tuple[str, dict[str, Any]]], names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Inputs of the nodes of these classes."""
    return [inputs for name, inputs in nodes if name in names]


def _sole(values: Sequence[T], otherwise: T) -> T:
    """What all values are, or `otherwise` if they differ or there are none."""
    return values[0] if values and all(value == values[0] for value in values) else otherwise


def _number(value: Any, otherwise: int = UNKNOWN_NUMBER) -> Any:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else otherwise


def _eta(sampler: dict[str, Any]) -> float:
    """Novel Views, which alone has a preset, has no eta: it is 0."""
    return float(_number(sampler.get("eta"), 0 if "preset" in sampler else UNKNOWN_NUMBER))


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
    return source_name(path), sha256(path)
