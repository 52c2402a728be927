"""The nodes from photo to picture, with a tiny model."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.nodes.conftest import Pack
from tests.nodes.stand_in import InterruptProcessingException

SAMPLING = {"seed": 3, "steps": 3, "eta": 0.0, "shared_noise": True, "views_per_chunk": 0}


@pytest.fixture
def crops() -> torch.Tensor:
    return torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def grid(pack: Pack, parts: SimpleNamespace, crops: torch.Tensor) -> Any:
    features, _ = pack.node("NVBEncodeFace").execute(parts.encoder, crops).args
    return pack.node("NVBBuildGrid").execute(parts.view_model, features).args[0]


@pytest.fixture(autouse=True)
def fresh(pack: Pack) -> None:
    pack.server.steps.clear()
    pack.server.loaded.clear()
    pack.server.interrupt_after = None


def poses(pack: Pack, **values: Any) -> Any:
    return pack.module("nvb_core.camera_paths").CameraPoses(**values)


def sample(pack: Pack, parts: SimpleNamespace, views: Any, **changes: Any) -> torch.Tensor:
    return pack.node("NVBDDIMSampler").execute(parts.denoiser, views, **{**SAMPLING, **changes}).args[0]["samples"]


def test_the_stages_give_what_the_core_gives(
    pack: Pack, parts: SimpleNamespace, model: Any, crops: torch.Tensor, grid: Any
) -> None:
    pipeline, sampling = pack.module("nvb_core.pipeline"), pack.module("nvb_core.sampling")
    cameras = pack.module("nvb_core.cameras").Cameras.from_angles([0, 20, -20])
    views, resolved = pack.node("NVBSampleViews").execute(grid, cameras).args
    latents = sample(pack, parts, views)
    images = pack.node("NVBDecode").execute(parts.vae, {"samples": latents}, False, 1.0).args[0]
    expected = pipeline.render_cameras(
        model, crops.movedim(-1, 1) * 2 - 1, [cameras, cameras], sampling.SamplingOptions(steps=3, seed=3, fit_steps=20)
    )
    torch.testing.assert_close(images, (expected.movedim(1, -1) + 1) / 2, atol=1e-4, rtol=0)
    torch.testing.assert_close(parts.vae.first_stage_model.decode(latents).clamp(-1, 1), expected, atol=1e-4, rtol=0)
    assert len(resolved) == 6
    assert torch.equal(resolved.cam2world[3:], cameras.cam2world)
    shown = pack.node("NVBDecode").execute(parts.vae, {"samples": latents}, True, 1.0).args[0]
    top, left, height, width = pack.module("nvb_core.watermark").watermark_box(32, 32)
    differs = (shown != images).any(dim=-1)
    assert differs[:, top : top + height, left : left + width].any()
    differs[:, top : top + height, left : left + width] = False
    assert not differs.any()


def test_other_cameras_and_seeds_compute_nothing_of_the_face_again(
    pack: Pack, parts: SimpleNamespace, model: Any, grid: Any
) -> None:
    runs = {"encoder": 0, "volume": 0, "unet": 0}

    def counting(name: str) -> Any:
        return lambda *_: runs.update({name: runs[name] + 1})

    modules = {"encoder": model.encoder, "volume": model.view.volume, "unet": model.unet}
    handles = [module.register_forward_hook(counting(name)) for name, module in modules.items()]
    try:
        for yaw, seed in ((10, 3), (-30, 3), (-30, 4)):
            views = pack.node("NVBSampleViews").execute(grid, poses(pack, yaw_deg=[yaw, 0])).args[0]
            sample(pack, parts, views, seed=seed)
    finally:
        for handle in handles:
            handle.remove()
    # 3 steps, and the timestep that the grid is fitted at; the encoder's 5th run, of timestep 0, came before.
    assert runs == {"encoder": 4, "volume": 4, "unet": 9}


def test_only_what_samples_is_loaded_and_diffusers_networks_wholly(
    pack: Pack, parts: SimpleNamespace, grid: Any
) -> None:
    views = pack.node("NVBSampleViews").execute(grid, poses(pack, yaw_deg=0)).args[0]
    pack.server.loaded.clear()
    sample(pack, parts, views)
    in_parts, whole = [parts.encoder.patcher, parts.view_model.patcher], [parts.denoiser.patcher]
    assert pack.server.loaded == [(whole, True), (in_parts + whole, False)]
    pack.server.loaded.clear()
    pack.node("NVBDecode").execute(parts.vae, {"samples": torch.zeros(1, 4, 4, 4)}, False, 1.0)
    assert pack.server.loaded == [([parts.vae.patcher], True)]
    assert all(patcher.more_memory[-1] > 2**60 for patcher in (parts.denoiser.patcher, parts.vae.patcher))
    assert not any(patcher.more_memory for patcher in in_parts)


def test_the_parts_hold_each_weight_once(pack: Pack, parts: SimpleNamespace, model: Any) -> None:
    modules = [part.patcher.model for part in (parts.encoder, parts.view_model, parts.denoiser)]
    held = [id(p) for module in (*modules, parts.vae.first_stage_model) for p in module.parameters()]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in model.parameters()}


def test_frame_input_counts_from_each_face(pack: Pack, grid: Any) -> None:
    _, cameras = pack.node("NVBSampleViews").execute(grid, poses(pack, yaw_deg=[0, 10], frame="input")).args
    assert torch.equal(cameras.cam2world[[0, 2]], grid.source.cam2world)


def test_progress_shows_every_step_with_a_picture(pack: Pack, parts: SimpleNamespace, grid: Any) -> None:
    views = pack.node("NVBSampleViews").execute(grid, poses(pack, yaw_deg=[0, 10])).args[0]
    sample(pack, parts, views)
    assert [(step, total) for step, total, _ in pack.server.steps] == [(1, 3), (2, 3), (3, 3)]
    kind, picture, size = pack.server.steps[-1][2]
    assert (kind, size) == ("JPEG", 512)
    low, high = picture.convert("L").getextrema()
    assert low < high


def test_zero_steps_are_as_many_as_the_model_is_best_with(
    pack: Pack, parts: SimpleNamespace, grid: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = pack.node("NVBSampleViews").execute(grid, poses(pack, yaw_deg=0)).args[0]
    monkeypatch.setattr(parts.denoiser.model, "config", replace(parts.denoiser.model.config, sampling_steps=2))
    latents = sample(pack, parts, views, steps=0)
    assert [step for step, *_ in pack.server.steps] == [1, 2]
    assert torch.equal(latents, sample(pack, parts, views, steps=2))


def test_an_interrupt_ends_the_run_within_a_step(pack: Pack, parts: SimpleNamespace, grid: Any) -> None:
    views = pack.node("NVBSampleViews").execute(grid, poses(pack, yaw_deg=0)).args[0]
    pack.server.interrupt_after = 2
    with pytest.raises(InterruptProcessingException):
        sample(pack, parts, views, steps=10)
    assert len(pack.server.steps) == 2


def test_an_interrupt_ends_the_decoding_between_chunks(pack: Pack, parts: SimpleNamespace) -> None:
    decode, latents = pack.node("NVBDecode").execute, {"samples": torch.zeros(40, 4, 4, 4)}
    decode(parts.vae, latents, False, 1.0)
    *began, last = pack.server.steps
    assert began[0] == (0,)
    assert len(began) > 1
    assert last == (40,)
    pack.server.steps.clear()
    pack.server.interrupt_after = 1
    with pytest.raises(InterruptProcessingException):
        decode(parts.vae, latents, False, 1.0)
    assert pack.server.steps == [(0,)]


def test_a_chunk_that_does_not_fit_is_halved_and_said(
    pack: Pack, parts: SimpleNamespace, model: Any, grid: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        if len(inputs[0]) > 2:
            raise torch.cuda.OutOfMemoryError

    views = pack.node("NVBSampleViews").execute(grid, poses(pack, yaw_deg=[0, 10, 20])).args[0]
    whole = sample(pack, parts, views)
    handle = model.unet.register_forward_pre_hook(refuse)
    try:
        torch.testing.assert_close(sample(pack, parts, views), whole, atol=1e-4, rtol=0)
    finally:
        handle.remove()
    assert [record.args for record in caplog.records if "out of memory" in record.message] == [(3,), (2,)]


def test_networks_of_other_number_formats_meet(
    pack: Pack, parts: SimpleNamespace, model: Any, grid: Any, crops: torch.Tensor
) -> None:
    networks, sockets = pack.module("nodes.networks"), pack.module("nodes.sockets")
    half = copy.deepcopy(model).to(torch.bfloat16)
    view_model = sockets.NetworkPart(half, networks.managed(networks.NVBViewTransform(half)))
    encoder = sockets.NetworkPart(half, networks.managed(networks.NVBEncoder(half)))
    camera = poses(pack, yaw_deg=0)
    expected = sample(pack, parts, pack.node("NVBSampleViews").execute(grid, camera).args[0])
    for one, other in ((parts.encoder, view_model), (encoder, parts.view_model)):
        features, _ = pack.node("NVBEncodeFace").execute(one, crops).args
        mixed = pack.node("NVBBuildGrid").execute(other, features).args[0]
        latents = sample(pack, parts, pack.node("NVBSampleViews").execute(mixed, camera).args[0])
        assert (latents - expected).norm() < 0.2 * expected.norm()


def test_views_computed_at_once_fit_in_what_is_made_room_for(pack: Pack) -> None:
    networks, presets = pack.module("nodes.networks"), pack.module("nvb_core.config").PRESETS
    number = SimpleNamespace(parameters=lambda: iter([torch.zeros(1, dtype=torch.float16)]))
    gpu, chunks = torch.device("cuda"), {}
    for name in ("mini", "sd21"):
        model = SimpleNamespace(config=presets[name], unet=number, vae=number)
        chunks[name] = networks.sampling_chunk(model, gpu), networks.decoding_chunk(model, gpu)
        for chunk, needed in zip(chunks[name], (networks.sampling_bytes, networks.decoding_bytes), strict=True):
            assert needed(model, chunk) <= 2 * 2**30
            assert chunk == 64 or needed(model, chunk + 1) > 2 * 2**30
        assert networks.sampling_chunk(model, torch.device("cpu")) <= 8
    assert chunks == {"mini": (64, 30), "sd21": (12, 1)}


def test_a_grid_is_fitted_as_often_as_asked(pack: Pack, parts: SimpleNamespace, crops: torch.Tensor) -> None:
    features, source = pack.node("NVBEncodeFace").execute(parts.encoder, crops).args
    for steps in (0, 2):
        built = pack.node("NVBBuildGrid").execute(parts.view_model, features, fit_steps=steps).args[0]
        expected = pack.module("nvb_core.pipeline").build_grid(parts.view_model.model, features.values, source, steps)
        assert torch.equal(built.values.at(500), expected.at(500))


def test_a_known_source_camera_replaces_the_predicted_one(
    pack: Pack, parts: SimpleNamespace, crops: torch.Tensor
) -> None:
    features, predicted = pack.node("NVBEncodeFace").execute(parts.encoder, crops).args
    build = pack.node("NVBBuildGrid").execute
    assert build(parts.view_model, features).args[0].source is predicted
    known = build(parts.view_model, features, poses(pack, yaw_deg=25)).args[0].source
    assert known.angles().yaw_deg.tolist() == pytest.approx([25, 25])
    camera_error = pack.module("nvb_core.errors").CameraError
    with pytest.raises(camera_error, match="3 source cameras for 2 faces"):
        build(parts.view_model, features, poses(pack, yaw_deg=[0, 1, 2]))
    with pytest.raises(camera_error, match="need exactly 1 source camera"):
        build(parts.view_model, features, poses(pack, yaw_deg=0, frame="input"))


@pytest.mark.parametrize("shape", [(1, 5, 4, 4), (1, 4, 5, 4), (0, 4, 4, 4), (4, 4, 4)])
def test_a_foreign_latent_is_refused(pack: Pack, parts: SimpleNamespace, model: Any, shape: tuple[int, ...]) -> None:
    fits = (1, model.config.vae.latent_channels, model.config.latent_size, model.config.latent_size)
    assert shape != fits
    with pytest.raises(pack.module("nvb_core.errors").ConfigError, match="latent has shape"):
        pack.node("NVBDecode").execute(parts.vae, {"samples": torch.zeros(shape)}, True, 1.0)
    with pytest.raises(pack.module("nvb_core.errors").ConfigError, match="holds NaN"):
        pack.node("NVBDecode").execute(parts.vae, {"samples": torch.full(fits, float("nan"))}, True, 1.0)
    with pytest.raises(pack.module("nvb_core.errors").ConfigError, match="VAE is not NVB-Face's"):
        pack.node("NVBDecode").execute(object(), {"samples": torch.zeros(fits)}, True, 1.0)


def test_core_vae_methods_find_their_scale(parts: SimpleNamespace, model: Any) -> None:
    vae, image = parts.vae, torch.rand(1, 3, 32, 32)
    assert vae.patcher.model is vae.first_stage_model  # newer versions of core take one for the other
    latent = vae.first_stage_model.encode(vae.process_input(image))
    assert latent.shape == (1, vae.latent_channels, 32 // vae.downscale_ratio, 32 // vae.downscale_ratio)
    torch.testing.assert_close(latent, model.vae.encode_raw(image * 2 - 1))  # core's samplers scale latents themselves
    decoded = vae.first_stage_model.decode(latent)
    assert decoded.shape == image.shape
    expected = ((decoded + 1) / 2).clamp(0, 1)
    vae.process_output(decoded)  # in place: newer versions of core ignore what it returns
    assert torch.allclose(decoded, expected)
    assert vae.memory_used_decode(latent.shape, None) > vae.memory_used_encode(image.shape, None) > 0


def test_networks_of_different_models_do_not_meet(pack: Pack) -> None:
    config = pack.module("nvb_core.config")
    with pytest.raises(pack.module("nvb_core.errors").ConfigError, match="features and view model are of different"):
        pack.module("nodes.networks").require_same_features(
            config.tiny_config(), config.ModelConfig(), "features and view model"
        )
