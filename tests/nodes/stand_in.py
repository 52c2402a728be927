"""Just enough of ComfyUI to import the nodes and call them without it. `tests/comfyui` has the real one."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch


class InterruptProcessingException(Exception):  # noqa: N818 — core's name
    """As core's."""


class Socket:
    """An input or output as a node declares it. Unknown keywords are kept: the real ComfyUI refuses them."""

    def __init__(self, id: str, *, optional: bool = False, **options: Any) -> None:
        self.id, self.optional, self.options = id, optional, options


@dataclass
class Schema:
    node_id: str
    display_name: str
    category: str
    inputs: list[Socket]
    outputs: list[Socket]
    description: str
    hidden: list[str] = field(default_factory=list)
    is_output_node: bool = False
    is_input_list: bool = False
    is_deprecated: bool = False
    enable_expand: bool = False


class NodeOutput:
    def __init__(self, *args: Any, ui: Any = None, expand: Any = None) -> None:
        self.args, self.ui, self.expand = args, ui, expand


class ModelPatcher:
    def __init__(self, model: torch.nn.Module, load_device: torch.device, offload_device: torch.device) -> None:
        self.model, self.load_device, self.offload_device = model, load_device, offload_device
        self.more_memory: list[float] = []

    def partially_load(self, device_to: torch.device, extra_memory: float = 0) -> float:
        assert device_to == self.load_device
        self.more_memory.append(extra_memory)
        return 0


class CastingLayer:
    """What tells core's layers, which can fetch their weights when they run, from torch's."""

    comfy_cast_weights = False


OPERATIONS = SimpleNamespace(
    **{
        layer.__name__: type(layer.__name__, (layer, CastingLayer), {})
        for layer in (torch.nn.Linear, torch.nn.Conv2d, torch.nn.LayerNorm, torch.nn.GroupNorm)
    }
)


NODE_CLASSES = {
    name: SimpleNamespace(RETURN_TYPES=types)
    for name, types in {
        "LoadImage": ("IMAGE", "MASK"),
        "LoadImageOutput": ("IMAGE", "MASK"),
        "LoadVideo": ("VIDEO",),
        "GetVideoComponents": ("IMAGE", "AUDIO", "FLOAT"),
        "ImageScale": ("IMAGE",),
        "ImageToMask": ("MASK",),
        "EmptyImage": ("IMAGE",),
        "PrimitiveInt": ("INT",),
        "Choice": (["a", "b"],),
        "NVBAlignFace": ("IMAGE", "NVB_CROP", "MASK"),
        "VAEDecode": ("IMAGE",),
        "EmptyLatentImage": ("LATENT",),
    }.items()
}


class VAE:
    def __init__(self, sd: dict[str, Any], dtype: torch.dtype) -> None:
        self.vae_dtype = dtype


class ExecutionBlocker:
    def __init__(self, message: str) -> None:
        self.message = message


class GraphBuilder:
    def __init__(self) -> None:
        self.nodes: dict[str, Any] = {}

    def node(self, class_type: str, **inputs: Any) -> SimpleNamespace:
        key = str(len(self.nodes))
        self.nodes[key] = {"class_type": class_type, "inputs": inputs}
        return SimpleNamespace(out=lambda index: [key, index])

    def finalize(self) -> dict[str, Any]:
        return self.nodes


@dataclass
class Server:
    """What the nodes do to ComfyUI, and what ComfyUI is told to do to them."""

    folder: Path
    loaded: list[tuple[list[Any], bool]] = field(default_factory=list)
    """Networks that were asked for together, and whether wholly."""
    steps: list[Any] = field(default_factory=list)
    static: dict[str, Path] = field(default_factory=dict)
    """Folders that are served, by their addresses."""
    interrupt_after: int | None = None
    args: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(disable_metadata=False, preview_size=512))

    def check_interrupt(self) -> None:
        if self.interrupt_after is not None and len(self.steps) >= self.interrupt_after:
            raise InterruptProcessingException

    def _prompt_server(self) -> SimpleNamespace:
        return SimpleNamespace(app=SimpleNamespace(router=SimpleNamespace(add_static=self.static.__setitem__)))

    def modules(self) -> dict[str, ModuleType]:
        """The modules that the nodes import."""
        comfy_io = SimpleNamespace(
            ComfyNode=type(
                "ComfyNode", (), {"hidden": SimpleNamespace(unique_id=None, prompt=None, extra_pnginfo=None)}
            ),
            Schema=Schema,
            NodeOutput=NodeOutput,
            Custom=lambda name: SimpleNamespace(Input=Socket, Output=Socket, io_type=name),
            Hidden=SimpleNamespace(unique_id="unique_id", prompt="prompt", extra_pnginfo="extra_pnginfo"),
        )
        values = ("Image", "Mask", "Latent", "Vae", "Model", "Conditioning", "Load3DCamera")
        for name in (*values, "Int", "Float", "Boolean", "String", "Combo"):
            setattr(comfy_io, name, SimpleNamespace(Input=Socket, Output=Socket))
        cpu = torch.device("cpu")
        return {
            "comfy": _module("comfy"),
            "comfy_api": _module("comfy_api"),
            "comfy_api.latest": _module("comfy_api.latest", io=comfy_io, ComfyExtension=object),
            "comfy_execution": _module("comfy_execution"),
            "comfy_execution.graph_utils": _module(
                "comfy_execution.graph_utils", ExecutionBlocker=ExecutionBlocker, GraphBuilder=GraphBuilder
            ),
            "comfy.cli_args": _module("comfy.cli_args", args=self.args),
            "comfy.conds": _module("comfy.conds"),
            "comfy.lora": _module("comfy.lora"),
            "comfy.model_sampling": _module("comfy.model_sampling"),
            "comfy.model_patcher": _module("comfy.model_patcher", ModelPatcher=ModelPatcher),
            "comfy.ops": _module("comfy.ops", disable_weight_init=OPERATIONS),
            "comfy.sd": _module("comfy.sd", VAE=VAE),
            "comfy.utils": _module("comfy.utils", ProgressBar=self._progress_bar),
            "comfy.model_management": _module(
                "comfy.model_management",
                get_torch_device=lambda: cpu,
                unet_offload_device=lambda: cpu,
                intermediate_device=lambda: cpu,
                is_device_cpu=lambda device: device.type == "cpu",
                load_models_gpu=self._load,
                throw_exception_if_processing_interrupted=self.check_interrupt,
            ),
            "folder_paths": self._folder_paths(),
            "nodes": _module("nodes", NODE_CLASS_MAPPINGS=NODE_CLASSES),
            "server": _module("server", PromptServer=SimpleNamespace(instance=self._prompt_server())),
        }

    def _load(self, patchers: list[Any], memory_required: float, force_full_load: bool = False) -> None:
        self.loaded.append((patchers, force_full_load))

    def _progress_bar(self, total: int) -> SimpleNamespace:
        return SimpleNamespace(update_absolute=lambda *values: self.steps.append(values))

    def _folder_paths(self) -> ModuleType:
        models, output = self.folder / "models", self.folder / "output"
        elsewhere = str(self.folder / "elsewhere")
        paths: dict[str, list[str]] = {"nvb_face": [elsewhere], "checkpoints": [elsewhere]}
        counter = itertools.count(1)

        def found(name: str, file: str) -> str:
            hits = [Path(folder) / file for folder in paths[name] if (Path(folder) / file).is_file()]
            if not hits:
                raise FileNotFoundError(file)
            return str(hits[0])

        return _module(
            "folder_paths",
            models_dir=str(models),
            add_model_folder_path=lambda name, path: paths.setdefault(name, []).append(path),
            get_folder_paths=lambda name: paths[name],
            get_filename_list=lambda name: sorted(p.name for f in paths[name] for p in Path(f).glob("*")),
            get_full_path_or_raise=found,
            get_output_directory=lambda: str(output),
            get_save_image_path=lambda prefix, folder, *_: (
                str(Path(folder) / Path(prefix).parent),
                Path(prefix).name,
                next(counter),
                str(Path(prefix).parent),
                prefix,
            ),
            exists_annotated_filepath=lambda name: (self.folder / "input" / name).is_file(),
            get_annotated_filepath=lambda name: str(self.folder / "input" / name),
        )


def _module(name: str, **contents: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(contents)
    if name in ("comfy", "comfy_api", "comfy_execution"):
        module.__path__ = []  # a package, so that its modules are found among those imported
    return module
