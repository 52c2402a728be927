from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from tests.nodes.stand_in import OPERATIONS, Server

ROOT = Path(__file__).parents[2]
NAME = "a_folder_of_any_name"


@dataclass(frozen=True)
class Pack:
    """The pack as ComfyUI imports it: under the name of some folder."""

    server: Server
    root: ModuleType

    def module(self, name: str) -> Any:
        """A module of the pack, such as "nodes.sample"."""
        return import_module(f"{NAME}.{name}")

    def node(self, node_id: str) -> Any:
        """A node class."""
        nodes = self.module("nodes")
        return next(node for node in [*nodes.NODES, *nodes.INNER_NODES] if node.__name__ == node_id)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pack]:
    server = Server(tmp_path_factory.mktemp("comfyui"))
    before = dict(sys.modules)
    sys.modules.update(server.modules())
    try:
        spec = importlib.util.spec_from_file_location(
            NAME, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        assert spec is not None
        assert spec.loader is not None
        root = importlib.util.module_from_spec(spec)
        sys.modules[NAME] = root
        spec.loader.exec_module(root)
        yield Pack(server, root)
    finally:
        for name in set(sys.modules) - set(before):
            if name.partition(".")[0] in (NAME, *(module.partition(".")[0] for module in server.modules())):
                del sys.modules[name]
        sys.modules.update({name: before[name] for name in server.modules() if name in before})


@pytest.fixture(scope="module")
def model(pack: Pack) -> Any:
    """A tiny model without zeros in it: zero-initialised parameters would hide what they multiply."""
    torch.manual_seed(0)
    model = pack.module("nvb_core.model").NVBModel(pack.module("nvb_core.config").tiny_config(), OPERATIONS)
    model.requires_grad_(False).eval()
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    model.vae.preview_weight.normal_()
    return model


@pytest.fixture(scope="module")
def parts(pack: Pack, model: Any) -> SimpleNamespace:
    """What NVBLoader puts out, of the tiny model."""
    networks, sockets = pack.module("nodes.networks"), pack.module("nodes.sockets")
    denoiser = networks.Denoiser(model)
    return SimpleNamespace(
        encoder=sockets.NetworkPart(model, networks.managed(networks.NVBEncoder(model))),
        view_model=sockets.NetworkPart(model, networks.managed(networks.NVBViewTransform(model))),
        denoiser=sockets.DenoiserPart(denoiser, networks.managed(denoiser)),
        vae=pack.module("nodes.vae").NVBVAE(model),
    )
