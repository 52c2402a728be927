from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage.transform import SimilarityTransform

from nvb_core.align import CropBox
from nvb_core.cameras import Cameras
from nvb_core.errors import ConfigError
from training.evaluation.embedding import (
    ARCFACE_POINTS,
    FACE_POINTS,
    Embedding,
    EmbeddingOptions,
    arcface_boxes,
    open_network,
)
from training.heads.expression import NEUTRAL
from training.heads.identity import sample_identity
from training.heads.scene import build_scene

SIZE = 16
CAMERAS = Cameras.from_angles([0.0, 30.0, -20.0], [0.0, -10.0, 15.0], roll_deg=[0.0, 12.0, -5.0])


def plugged(path: Path) -> Embedding:
    """Open a network that is to see whole pictures in [-1, 1]."""
    found = EmbeddingOptions(embedding=path, embedding_crop="whole").open()
    assert found is not None
    return found


def wanting(plug: Embedding, **changes: Any) -> Embedding:
    """The same network, to see something else."""
    return replace(plug, options=replace(plug.options, **changes))


@pytest.fixture
def plug(make_onnx: Callable[..., Path]) -> Embedding:
    """A network that gives the picture back, row by row."""
    path = make_onnx(["n", 3, SIZE, SIZE])
    return plugged(path)


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_network_sees_what_it_wants(plug: Embedding, pictures: torch.Tensor, make_onnx: Callable[..., Path]) -> None:
    def seen(plug: Embedding) -> torch.Tensor:
        return plug._read(pictures, CAMERAS).unflatten(1, (3, SIZE, SIZE))

    torch.testing.assert_close(seen(plug), pictures, atol=1e-5, rtol=0)
    torch.testing.assert_close(seen(wanting(plug, embedding_colours="bgr")), pictures.flip(1), atol=1e-5, rtol=0)
    bytes_over_2 = seen(wanting(plug, embedding_mean=0, embedding_std=2))
    torch.testing.assert_close(bytes_over_2, (pictures + 1) * 127.5 / 2, atol=1e-3, rtol=0)
    one_at_a_time = make_onnx([1, 3, SIZE, SIZE])
    torch.testing.assert_close(seen(plugged(one_at_a_time)), seen(plug))


def test_similarity_is_the_cosine(plug: Embedding, pictures: torch.Tensor) -> None:
    others = torch.cat([pictures[:1], -pictures[1:2], pictures[2:].flip(-1)])
    found = plug.similarities(pictures, others, CAMERAS)
    a, b = pictures[2].flatten().numpy(), others[2].flatten().numpy()
    expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert found.tolist() == pytest.approx([1, -1, expected], abs=1e-5)


def test_arcface_crop_is_the_least_squares_similarity() -> None:
    boxes = arcface_boxes(CAMERAS, 200)
    seen = CAMERAS.project(torch.tensor(FACE_POINTS).double()).numpy() * 200
    for box, points in zip(boxes, seen, strict=True):
        transform = SimilarityTransform.from_estimate(np.array(ARCFACE_POINTS) / 112 - 0.5, points)
        assert box.center_x == pytest.approx(transform.translation[0])
        assert box.center_y == pytest.approx(transform.translation[1])
        assert box.size_px == pytest.approx(transform.scale)
        assert box.roll_deg == pytest.approx(np.degrees(transform.rotation), abs=1e-5)
    assert boxes[0].center_x == pytest.approx(100, abs=1)
    assert boxes[0].roll_deg == pytest.approx(0, abs=0.5)  # ArcFace's own points aren't symmetric
    assert boxes[1].roll_deg == pytest.approx(12, abs=3)


def test_arcface_crop_brings_faces_where_it_wants_them() -> None:
    scenes = [build_scene(sample_identity(seed), NEUTRAL, 128) for seed in range(1_000_000, 1_000_004)]
    cameras = Cameras.from_angles([0.0, 20.0, -20.0], [0.0, 10.0, -10.0])
    distances = []
    for scene in scenes:
        for box, points in zip(
            arcface_boxes(cameras, 128), cameras.project(scene.landmarks5.double()) * 128, strict=True
        ):
            distances.append((in_crop(points, box) * 112 - torch.tensor(ARCFACE_POINTS)).norm(dim=1).mean())
    assert torch.stack(distances).mean() < 5
    assert max(distances) < 8


def in_crop(points: torch.Tensor, box: CropBox) -> torch.Tensor:
    """Pixels of a picture (P, 2) in fractions of a crop."""
    turn = torch.deg2rad(torch.tensor(box.roll_deg)).double()
    offsets = points - torch.tensor([box.center_x, box.center_y])
    rotation = torch.tensor([[turn.cos(), -turn.sin()], [turn.sin(), turn.cos()]])
    return offsets @ rotation / box.size_px + 0.5


def test_whole_pictures_reach_the_arcface_crop(plug: Embedding) -> None:
    """A dot where the camera sees the nose comes to the crop's own place for it."""
    size = 128
    [nose] = CAMERAS[0].project(torch.tensor(FACE_POINTS[2:3]).double())[0] * size
    y, x = torch.meshgrid(*[torch.arange(size) + 0.5] * 2, indexing="ij")
    dot = torch.exp(-((x - nose[0]) ** 2 + (y - nose[1]) ** 2) / 2 / 6**2)
    picture = (2 * dot - 1).float().expand(1, 3, size, size)
    seen = wanting(plug, embedding_crop="arcface")._read(picture, CAMERAS[0]).view(3, SIZE, SIZE)[0] + 1
    weights = seen / seen.sum()
    at = (torch.arange(SIZE) + 0.5) / SIZE * 112
    assert float(weights.sum(0) @ at) == pytest.approx(ARCFACE_POINTS[2][0], abs=2)
    assert float(weights.sum(1) @ at) == pytest.approx(ARCFACE_POINTS[2][1], abs=6)  # noses of heads lie lower


def test_arcface_crop_needs_cameras(plug: Embedding, pictures: torch.Tensor) -> None:
    assert plug.similarities(pictures, pictures, None).tolist() == pytest.approx([1, 1, 1])
    with pytest.raises(ConfigError, match="--embedding-crop arcface needs cameras"):
        wanting(plug, embedding_crop="arcface").similarities(pictures, pictures, None)


@pytest.mark.parametrize("shape", [["n", 3, 8, 9], ["n", 3, "h", "w"], ["n", 8, 8, 3], [4, 3, 8, 8], [3, 8, 8]])
def test_networks_with_other_inputs(make_onnx: Callable[..., Path], shape: list[int | str]) -> None:
    with pytest.raises(ConfigError, match=r"net\.onnx: its input is .* must be one of float32"):
        open_network(make_onnx(shape))


def test_network_with_another_output(make_onnx: Callable[..., Path], pictures: torch.Tensor) -> None:
    path = make_onnx(["n", 3, SIZE, SIZE], "Relu")
    plug = plugged(path)
    with pytest.raises(ConfigError, match=r"net\.onnx: its first output of 3 pictures is \(3, 3, 16, 16\)"):
        plug.similarities(pictures, pictures, CAMERAS)


@pytest.mark.parametrize(
    ("rows", "message"),
    [([1, -1], r"its first output of 3 pictures is \(1, 2304\)"), ([1, 768], "it doesn't run on 3 pictures")],
)
def test_network_that_takes_one_picture_at_a_time(
    make_onnx: Callable[..., Path], pictures: torch.Tensor, rows: list[int], message: str
) -> None:
    path = make_onnx(["n", 3, SIZE, SIZE], "Reshape", rows)
    plug = plugged(path)
    with pytest.raises(ConfigError, match=rf"net\.onnx: {message}.* with a fixed batch of 1"):
        plug.similarities(pictures, pictures, CAMERAS)
    path = make_onnx([1, 3, SIZE, SIZE], "Reshape", rows)
    plug = plugged(path)
    assert plug.similarities(pictures, pictures, CAMERAS).tolist() == pytest.approx([1, 1, 1])


def test_files_that_are_no_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.onnx"
    path.write_text("<html>404</html>")
    with pytest.raises(ConfigError, match=r"net\.onnx: not a network that onnxruntime runs"):
        open_network(path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install 'nvb-face\[metrics\]'"):
        open_network(path)


def test_networks_whose_weights_are_also_inputs_open_quietly(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As older exporters made them, OpenCV's SFace for one: onnxruntime warns of each, by the hundred."""
    from onnx import TensorProto, helper, save_model

    graph = helper.make_graph(
        [helper.make_node("Add", ["pictures", "bias"], ["out"])],
        "net",
        [helper.make_tensor_value_info("pictures", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [helper.make_tensor("bias", TensorProto.FLOAT, [1], [0.5])],
    )
    graph.input.append(helper.make_tensor_value_info("bias", TensorProto.FLOAT, [1]))
    path = tmp_path / "net.onnx"
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    [entry] = open_network(path).get_inputs()
    assert entry.name == "pictures"
    assert capfd.readouterr().err == ""
