from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nvb_core.camera_paths import CameraPoses, yaw_sweep
from nvb_core.cameras import FOCAL, RADIUS, Cameras
from nvb_core.checkpoint import load_model, save_model
from nvb_core.config import tiny_config
from nvb_core.errors import ConfigError, SamplingCancelled
from nvb_core.model import NVBModel
from nvb_core.pipeline import (
    ViewFeatures,
    build_grid,
    encode_faces,
    predict_cameras,
    predict_source,
    render_cameras,
    render_views,
    restore,
    sample_views,
)
from nvb_core.sampling import SamplingOptions, StepInfo

OPTIONS = SamplingOptions(steps=3, seed=4)
CAMERAS = Cameras.from_angles([0, 20, -20, 40, -40])


@pytest.fixture
def crops() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1


@contextmanager
def counted(*modules: nn.Module) -> Iterator[list[int]]:
    """How many times each module ran."""
    counts = [0] * len(modules)

    def hook(index: int) -> None:
        counts[index] += 1

    handles = [m.register_forward_hook(lambda *_, i=i: hook(i)) for i, m in enumerate(modules)]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def test_faces_are_encoded_in_chunks_that_fit(tiny_model: NVBModel, crops: Tensor) -> None:
    faces = crops.repeat(6, 1, 1, 1) * torch.linspace(0.1, 1, 12)[:, None, None, None]
    expected = encode_faces(tiny_model, faces).at(7)
    sizes: list[int] = []

    def fits_five(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        sizes.append(len(arguments[0]))
        if len(arguments[0]) > 5:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    hook = tiny_model.encoder.register_forward_pre_hook(fits_five)
    try:
        encoded = encode_faces(tiny_model, faces)
        encoded.at(5)
        features = encoded.at(7)
    finally:
        hook.remove()
    assert sizes == [8, 4, 4, 4, 4, 4, 4]
    torch.testing.assert_close(features, expected)


# ---- what is computed once ----


def test_encoder_and_volume_run_once_a_step_for_all_views(tiny_model: NVBModel, crops: Tensor) -> None:
    view = tiny_model.view
    options = replace(OPTIONS, steps=4, views_per_chunk=2)  # 5 views: 3 chunks a step
    parts = (tiny_model.encoder, view.volume, view.camera_predictor, view.aggregator, tiny_model.unet)
    with counted(*parts) as counts:
        render_views(tiny_model, crops[0], CAMERAS, options)
    assert counts == [4 + 1, 4, 1, 4 * 3, 4 * 3]  # the encoder once more, to predict the camera
    with counted(*parts) as counts:
        render_views(tiny_model, crops[0], CAMERAS, options, source_camera=Cameras.from_angles(10))
    assert counts[:3] == [4, 4, 0]


def test_other_cameras_run_neither_again(tiny_model: NVBModel, crops: Tensor) -> None:
    features = encode_faces(tiny_model, crops)
    grid = build_grid(tiny_model, features, predict_source(tiny_model, features))
    parts = (tiny_model.encoder, tiny_model.view.volume)
    with counted(*parts) as counts:
        sample_views(tiny_model, ViewFeatures(tiny_model, grid, [CAMERAS, CAMERAS]), OPTIONS)
    assert counts == [3, 3]
    with counted(*parts, tiny_model.unet) as counts:
        sample_views(tiny_model, ViewFeatures(tiny_model, grid, [CAMERAS[2:], CAMERAS[:3]]), OPTIONS)
    assert counts == [0, 0, 3]
    other = build_grid(tiny_model, features, Cameras.from_angles([5, 10]))
    with counted(*parts) as counts:
        sample_views(tiny_model, ViewFeatures(tiny_model, other, [CAMERAS, CAMERAS]), OPTIONS)
    assert counts == [0, 3]


def test_grids_of_many_faces_are_built_some_at_a_time(
    tiny_model: NVBModel, crops: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, cameras = encode_faces(tiny_model, crops[:1].expand(20, -1, -1, -1)), Cameras.from_angles(list(range(20)))
    sizes: list[int] = []
    volume = tiny_model.view.volume.forward

    def fits(values: Tensor, camera: Tensor, timesteps: Tensor) -> Tensor:
        if len(values) > 5:
            raise torch.OutOfMemoryError("no room")
        sizes.append(len(values))
        return volume(values, camera, timesteps)

    whole = build_grid(tiny_model, features, cameras).at(5)
    monkeypatch.setattr(tiny_model.view.volume, "forward", fits)
    torch.testing.assert_close(build_grid(tiny_model, features, cameras).at(5), whole)
    assert sizes == [4, 4, 4, 4, 4]  # half of eight


def test_values_carry_no_autograd_graph(tiny_model: NVBModel, crops: Tensor) -> None:
    model = copy.deepcopy(tiny_model).requires_grad_(True)
    features = encode_faces(model, crops)
    grid = build_grid(model, features, predict_source(model, features))
    views = ViewFeatures(model, grid, [CAMERAS, CAMERAS])
    assert not any(t.requires_grad for t in (features.at(5), grid.at(5), views.at(5, 0, 2)))


# ---- cameras ----


def test_frontal_camera_before_training(crops: Tensor) -> None:
    cameras = predict_cameras(NVBModel(tiny_config()), crops)
    torch.testing.assert_close(cameras.cam2world, Cameras.from_angles([0, 0]).cam2world)
    torch.testing.assert_close(cameras.intrinsics, Cameras.from_angles([0, 0]).intrinsics)


@pytest.mark.parametrize(
    ("index", "value", "distance", "fx", "cy"),
    [
        (11, 100.0, 2 * RADIUS, FOCAL, 0.5),
        (11, 0.01, 0.5 * RADIUS, FOCAL, 0.5),
        (12, 100.0, RADIUS, 4 * FOCAL, 0.5),
        (12, -3.0, RADIUS, 0.25 * FOCAL, 0.5),
        (15, 9.0, RADIUS, FOCAL, 1.5),
        (15, -9.0, RADIUS, FOCAL, -0.5),
    ],
    ids=["far", "inside the head", "long", "behind the sensor", "low", "high"],
)
def test_a_wild_prediction_becomes_a_usable_camera(
    crops: Tensor, index: int, value: float, distance: float, fx: float, cy: float
) -> None:
    model = NVBModel(tiny_config())
    model.view.camera_predictor.head[-1].bias.data[index] = value
    camera = predict_cameras(model, crops)[0]
    assert float(camera.cam2world[0, :3, 3].norm()) == pytest.approx(distance, rel=1e-6)
    assert float(camera.intrinsics[0, 0, 0]) == pytest.approx(fx, rel=1e-6)
    assert float(camera.intrinsics[0, 1, 2]) == pytest.approx(cy, rel=1e-6)


def test_predicted_rotation_is_projected_to_a_rotation(tiny_model: NVBModel, crops: Tensor) -> None:
    vector = tiny_model.view.camera_predictor(encode_faces(tiny_model, crops).at(0))
    rotation = vector[:, :12].reshape(2, 3, 4)[:, :, :3]
    assert (rotation.mT @ rotation - torch.eye(3)).abs().max() > 1e-2
    assert len(predict_cameras(tiny_model, crops)) == 2  # Cameras checks that it is orthonormal


def test_all_zero_in_the_input_frame_is_the_source_camera(tiny_model: NVBModel, crops: Tensor) -> None:
    poses = CameraPoses(yaw_deg=(0.0, 15.0), pitch_deg=(0.0, 0.0), roll_deg=(0.0, 0.0), frame="input")
    rendered = render_views(tiny_model, crops[0], poses, OPTIONS)
    assert torch.equal(rendered.cameras[0].cam2world, rendered.source_camera.cam2world)
    assert torch.equal(rendered.cameras[0].intrinsics, rendered.source_camera.intrinsics)
    given = Cameras.from_angles(12, 3, 2)
    overridden = render_views(tiny_model, crops[0], poses, OPTIONS, source_camera=given)
    assert overridden.source_camera is given
    assert torch.equal(overridden.cameras[0].cam2world, given.cam2world)
    assert (overridden.images - rendered.images).abs().max() > 1e-4


def test_source_cameras_must_match_the_faces(tiny_model: NVBModel, crops: Tensor) -> None:
    with pytest.raises(ConfigError, match="5 source cameras for 1 faces"):
        render_views(tiny_model, crops[0], CAMERAS, OPTIONS, source_camera=CAMERAS)


# ---- views ----


def test_rendered_views(tiny_model: NVBModel, crops: Tensor) -> None:
    seen: list[StepInfo] = []
    rendered = render_views(tiny_model, crops[0], yaw_sweep(3), OPTIONS, on_step=seen.append)
    assert rendered.images.shape == (3, 3, 32, 32)
    assert rendered.images.dtype == torch.float32
    assert rendered.images.abs().max() <= 1
    assert (len(rendered.cameras), len(rendered.source_camera)) == (3, 1)
    assert [info.step for info in seen] == [1, 2, 3]
    assert (rendered.images[0] - rendered.images[2]).abs().max() > 1e-4


@pytest.mark.parametrize("eta", [0.0, 0.8])
@pytest.mark.parametrize("shared", [True, False])
def test_chunk_size_does_not_change_the_views(tiny_model: NVBModel, crops: Tensor, eta: float, shared: bool) -> None:
    options = replace(OPTIONS, steps=2, eta=eta, shared_noise=shared)
    cameras = [CAMERAS[:3], CAMERAS[2:]]
    whole = render_cameras(tiny_model, crops, cameras, options)
    assert whole.shape == (6, 3, 32, 32)
    for size in (1, 4):  # 4 cuts across faces
        chunked = render_cameras(tiny_model, crops, cameras, replace(options, views_per_chunk=size))
        torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-4)


def test_first_face_of_many_is_rendered_as_if_alone(tiny_model: NVBModel, crops: Tensor) -> None:
    both = render_cameras(tiny_model, crops, [CAMERAS[:2], CAMERAS[3:]], OPTIONS)
    alone = render_views(tiny_model, crops[0], CAMERAS[:2], OPTIONS).images
    torch.testing.assert_close(both[:2], alone, rtol=0, atol=1e-4)
    assert (both[2:] - alone).abs().max() > 1e-3


def test_view_features_are_face_major_for_any_range(tiny_model: NVBModel, crops: Tensor) -> None:
    features = encode_faces(tiny_model, crops)
    grid = build_grid(tiny_model, features, predict_source(tiny_model, features))
    views = ViewFeatures(tiny_model, grid, [CAMERAS[:3], CAMERAS[2:]])
    whole = views.at(500, 0, 6)
    for start in range(6):
        for end in range(start + 1, 7):
            torch.testing.assert_close(views.at(500, start, end), whole[start:end], rtol=0, atol=1e-5)
    second = encode_faces(tiny_model, crops[1:])
    own_grid = build_grid(tiny_model, second, predict_source(tiny_model, second))
    alone = ViewFeatures(tiny_model, own_grid, [CAMERAS[2:]]).at(500, 0, 3)
    torch.testing.assert_close(alone, whole[3:], rtol=0, atol=1e-5)
    assert (views.at(500, 3, 4) - views.at(500, 2, 3)).abs().max() > 1e-3  # the same camera of either face


def test_every_face_needs_as_many_cameras(tiny_model: NVBModel, crops: Tensor) -> None:
    with pytest.raises(ConfigError, match="same number of cameras"):
        render_cameras(tiny_model, crops, [CAMERAS[:2], CAMERAS[:3]], OPTIONS)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 3, 16, 16), (1, 1, 32, 32), (1, 3, 32, 64)])
def test_crops_of_the_wrong_shape(tiny_model: NVBModel, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"the model needs \(B, 3, 32, 32\)"):
        encode_faces(tiny_model, torch.zeros(shape))


def test_restoration_uses_no_view_transform(tiny_model: NVBModel, crops: Tensor) -> None:
    with counted(tiny_model.view.volume, tiny_model.view.aggregator, tiny_model.encoder) as counts:
        restored = restore(tiny_model, crops, OPTIONS)
    assert counts == [0, 0, 3]
    assert restored.shape == crops.shape
    chunked = restore(tiny_model, crops, replace(OPTIONS, views_per_chunk=1))
    torch.testing.assert_close(chunked, restored, rtol=0, atol=1e-4)


def test_half_precision_checkpoint_renders(tiny_model: NVBModel, crops: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(tiny_model, path, {}, torch.bfloat16)
    model = load_model(path, dtype=torch.bfloat16)
    images = render_views(model, crops[0], CAMERAS, OPTIONS).images
    assert images.dtype == torch.float32
    exact = render_views(tiny_model, crops[0], CAMERAS, OPTIONS).images
    assert (images - exact).abs().mean() < 0.1


def test_cancelling_frees_features_and_grid(tiny_model: NVBModel, crops: Tensor) -> None:
    made: list[weakref.ref[Tensor]] = []
    parts = (tiny_model.encoder, tiny_model.view.volume, tiny_model.view.aggregator)
    handles = [m.register_forward_hook(lambda _m, _i, output: made.append(weakref.ref(output))) for m in parts]
    calls = iter((False, False, True))
    try:
        with pytest.raises(SamplingCancelled) as error:
            render_views(tiny_model, crops[0], CAMERAS, OPTIONS, should_cancel=lambda: next(calls))
    finally:
        for handle in handles:
            handle.remove()
    assert len(made) == 3 + 2 + 2  # the third step stops before any of them
    del error
    gc.collect()
    assert [ref() for ref in made if ref() is not None] == []


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_renders_the_same_views(tiny_model: NVBModel, crops: Tensor, dtype: torch.dtype) -> None:
    gpu = torch.device("cuda")
    there = copy.deepcopy(tiny_model).to(gpu, dtype)
    rendered, expected = (render_views(model, crops[0], CAMERAS, OPTIONS) for model in (there, tiny_model))
    exact = dtype == torch.float32  # but for convolutions in TF32
    for ours, theirs in (
        (rendered.images, expected.images),
        (restore(there, crops, OPTIONS).cpu(), restore(tiny_model, crops, OPTIONS)),
    ):
        mse = (ours - theirs).square().flatten(1).mean(1)
        assert bool((-10 * torch.log10(mse / 4) > (40 if exact else 25)).all())
    torch.testing.assert_close(
        rendered.source_camera.to_vector(), expected.source_camera.to_vector(), atol=1e-3 if exact else 0.05, rtol=0
    )
