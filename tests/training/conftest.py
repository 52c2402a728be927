"""A face folder of random smooth pictures, a tiny model, and a clean accelerate for tests of the trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from nvb_core.adapted import adapted_model
from nvb_core.autoencoder import Autoencoder
from nvb_core.backbone import read_base
from nvb_core.cameras import Cameras
from nvb_core.checkpoint import save_model
from nvb_core.config import PRESETS, SD21, tiny_config
from nvb_core.denoiser import build_unet
from nvb_core.model import NVBModel
from tests.nvb_core.test_backbone import shrunken, single_file

SUBJECTS, VIEWS, SIDE_PX, MARGIN = 3, 5, 40, 1.25
FOV_DEG = 16.75


def write_faces(folder: Path, views: int = VIEWS, side_px: int = SIDE_PX) -> Path:
    """SUBJECTS × views random smooth pictures with random cameras."""
    from training.data import write_index

    rng = np.random.default_rng(0)
    names = [(s, v) for s in range(SUBJECTS) for v in range(views)]
    for subject, view in names:
        coarse = torch.from_numpy(rng.random((1, 3, 5, 5)))
        pixels = F.interpolate(coarse, size=(side_px, side_px), mode="bicubic").clamp(0, 1)[0].movedim(0, -1)
        path = folder / f"{subject:08d}" / f"{view:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 255).byte().numpy()).save(path)
    cameras = Cameras.from_angles(rng.uniform(-40, 40, len(names)), rng.uniform(-15, 15, len(names)), fov_deg=FOV_DEG)
    paths, subjects = [f"{s:08d}/{v:02d}.png" for s, v in names], [f"subject-{s}" for s, _ in names]
    write_index(folder, paths, cameras.to_eg3d(), subjects, {"margin": MARGIN})
    return folder


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"))


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights, as the autoencoder stage would leave it."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("tiny") / "model.safetensors"
    save_model(NVBModel(tiny_config()), path, {"vae": {"steps": 0}})
    return path


@dataclass(frozen=True)
class ShrunkenSD:
    """Stable Diffusion's topology with random weights and few channels, 64 pixels, and a face folder that fits it."""

    faces: Path
    base: Path
    """A single file of float16 weights."""
    init: Path
    """A new model on top of it, as a difference."""


@pytest.fixture(scope="session")
def shrunken_sd(tmp_path_factory: pytest.TempPathFactory) -> ShrunkenSD:
    root = tmp_path_factory.mktemp("sd")
    plain = shrunken(SD21, 12)
    view = replace(
        plain.view, grid_size=4, volume_blocks=2, aggregator_width=8, aggregator_heads=2, aggregator_blocks=1
    )
    config = replace(plain, image_size=64, view=view)
    torch.manual_seed(0)
    states = build_unet(config).state_dict(), Autoencoder(config.vae).kl.state_dict()
    base = single_file(root / "base.safetensors", states, config, dtype=torch.float16)
    save_model(adapted_model(read_base(base, "epsilon", (config,))), root / "init.safetensors", {})
    return ShrunkenSD(write_faces(root / "faces", side_px=80), base, root / "init.safetensors")


@pytest.fixture
def tiny_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny", tiny_config())


@pytest.fixture
def accelerate_reset() -> Iterator[None]:
    """accelerate keeps its settings in process-wide state; one thread makes sums come out equal in every process."""
    from accelerate.state import AcceleratorState, GradientState

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    torch.set_num_threads(threads)


Losses = dict[str, Tensor]


@pytest.fixture
def overfit() -> Callable[..., tuple[Losses, Losses]]:
    """Train a network on one batch with the same noise in every step; returns its losses before and after."""

    def run(network: nn.Module, batch: object, steps: int, lr: float) -> tuple[Losses, Losses]:
        parameters = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=lr)

        def losses() -> Losses:
            return network(batch, torch.Generator().manual_seed(0))

        before = losses()
        for _ in range(steps):
            optimizer.zero_grad()
            losses()["loss"].backward()
            optimizer.step()
        return before, losses()

    return run


@pytest.fixture
def make_onnx(tmp_path: Path) -> Callable[..., Path]:
    """A network of one operation in ONNX."""

    def make(shape: list[int | str], operation: str = "Flatten", constant: list[int] | None = None) -> Path:
        from onnx import TensorProto, helper, save_model

        constants = [] if constant is None else [helper.make_tensor("c", TensorProto.INT64, [len(constant)], constant)]
        graph = helper.make_graph(
            [helper.make_node(operation, ["pictures", *(tensor.name for tensor in constants)], ["out"])],
            "net",
            [helper.make_tensor_value_info("pictures", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
            constants,
        )
        path = tmp_path / "net.onnx"
        save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        return path

    return make
