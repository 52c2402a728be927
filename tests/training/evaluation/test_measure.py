from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from nvb_core.cameras import Cameras
from nvb_core.errors import ConfigError
from nvb_core.model import NVBModel
from nvb_core.pipeline import predict_cameras, render_cameras, restore
from nvb_core.sampling import SamplingOptions
from training.evaluation import measure
from training.evaluation.benchmark import Benchmark, BenchmarkFace
from training.evaluation.measure import GeneratedFaces, MeasureSettings, degrade_input, generate, machine_name, score
from training.evaluation.metrics import CameraErrors, psnr

MakeFace = Callable[[int], BenchmarkFace]
SAMPLING = SamplingOptions(steps=3, seed=5)
SETTINGS = MeasureSettings(level=1, sampling=SAMPLING, true_camera=False)


@pytest.fixture
def faces(make_face: MakeFace) -> list[BenchmarkFace]:
    return [make_face(1_000_000 + i) for i in range(3)]


def test_a_batch_gives_what_the_pipeline_gives_face_by_face(model: NVBModel, faces: list[BenchmarkFace]) -> None:
    generated = generate(model, faces, SETTINGS)
    predicted = predict_cameras(model, generated.degraded)
    torch.testing.assert_close(generated.predicted.to_eg3d(), predicted.to_eg3d())
    for i, face in enumerate(faces):
        crop = generated.degraded[i : i + 1]
        assert torch.equal(crop[0], degrade_input(face, 1))
        torch.testing.assert_close(generated.restored[i], restore(model, crop, SAMPLING)[0], atol=1e-4, rtol=0)
        cameras = Cameras.cat([face.cameras.targets, face.cameras.pair])
        alone = render_cameras(model, crop, [cameras], SAMPLING)
        torch.testing.assert_close(torch.cat([generated.views[i], generated.pairs[i]]), alone, atol=1e-4, rtol=0)
        reconstructed = model.vae.decode(model.vae.encode(face.targets)).clamp(-1, 1)
        torch.testing.assert_close(generated.reconstructed[i], reconstructed, atol=1e-5, rtol=0)
    assert set(generated.seconds) == {"autoencoder", "restoration", "views"}
    assert min(generated.seconds.values()) > 0


def test_true_camera(model: NVBModel, faces: list[BenchmarkFace]) -> None:
    face = faces[0]
    told = generate(model, [face], replace(SETTINGS, true_camera=True))
    crop = told.degraded
    expected = render_cameras(model, crop, [face.cameras.targets], SAMPLING, source=face.cameras.input)
    torch.testing.assert_close(told.views[0], expected, atol=1e-4, rtol=0)
    guessed = generate(model, [face], SETTINGS)
    assert not torch.allclose(told.views, guessed.views, atol=1e-5)
    assert torch.equal(told.predicted.to_eg3d(), guessed.predicted.to_eg3d())  # measured all the same


def test_encoder_runs_once_per_timestep(
    model: NVBModel, faces: list[BenchmarkFace], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    forward = model.encoder.forward

    def counted(images: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        calls.append(int(timesteps[0]))
        return forward(images, timesteps)

    monkeypatch.setattr(model.encoder, "forward", counted)
    generate(model, faces, SETTINGS)
    assert len(calls) == len(set(calls)) == SAMPLING.steps + 1  # and once for the camera


def test_degradation_is_a_function_of_seed_and_level(make_face: MakeFace) -> None:
    face = make_face(1_000_000)
    assert torch.equal(degrade_input(face, 1), degrade_input(face, 1))
    assert torch.equal(degrade_input(face, 0), face.image)
    other = replace(face, seed=1_000_001)
    assert not torch.equal(degrade_input(face, 1), degrade_input(other, 1))
    assert not torch.equal(degrade_input(face, 1), degrade_input(face, 2))


def perfect(faces: list[BenchmarkFace]) -> GeneratedFaces:
    """What a model that makes no mistake would generate."""
    targets = torch.stack([face.targets for face in faces])
    return GeneratedFaces(
        degraded=torch.stack([degrade_input(face, 1) for face in faces]),
        restored=torch.stack([face.image for face in faces]),
        reconstructed=targets,
        views=targets,
        pairs=torch.stack([torch.stack([view.image for view in face.pair]) for face in faces]),
        predicted=Cameras.cat([face.cameras.input for face in faces]),
        seconds={"views": 6.0},
    )


def test_perfect_views_score_perfectly(heads: Benchmark) -> None:
    faces = [heads.load(1_000_000), heads.load(1_000_001)]
    for face, scores in zip(faces, score(faces, perfect(faces), "here"), strict=True):
        assert scores.seed == face.seed
        assert scores.restored_psnr == 100
        assert scores.degraded_psnr == pytest.approx(float(psnr(degrade_input(face, 1)[None], face.image[None])))
        assert 10 < scores.degraded_psnr < 40
        assert scores.camera == CameraErrors(0, 0, 0, 0)
        assert scores.pair_psnr == scores.true_pair_psnr is not None
        assert scores.seconds["views"] == 3
        assert scores.machine == "here"
        for view, yaw in zip(scores.views, face.cameras.targets.angles().yaw_deg.tolist(), strict=True):
            assert (view.psnr, view.autoencoder_psnr) == (100, 100)
            assert (view.ssim, view.ms_ssim, view.gmsd) == pytest.approx((1, 1, 0), abs=1e-6)
            assert view.copy_psnr < 40
            assert view.yaw_deg == yaw
            assert view.face_found == view.face_found_in_truth


def test_worse_pictures_score_worse(heads: Benchmark) -> None:
    face = heads.load(1_000_000)
    good = perfect([face])
    noise = 0.2 * torch.randn(good.views.shape, generator=torch.Generator().manual_seed(0))
    bad = replace(
        good, views=good.views + noise, pairs=good.pairs + noise[:, :2], reconstructed=good.reconstructed + noise / 10
    )
    [scores] = score([face], bad, "")
    assert scores.true_pair_psnr is not None
    assert scores.pair_psnr is not None
    assert scores.pair_psnr < scores.true_pair_psnr - 5
    for view in scores.views:
        assert view.psnr == pytest.approx(20, abs=0.5)
        assert view.autoencoder_psnr == pytest.approx(40, abs=0.5)
        assert view.ssim < 0.9
        assert view.ms_ssim < 0.97
        assert view.gmsd > 0.05


def test_faces_are_sought_in_frontal_views_only(make_face: MakeFace, monkeypatch: pytest.MonkeyPatch) -> None:
    face = make_face(1_000_000)
    cameras = Cameras.from_angles([-14.9, 15.1, 3.0], [0.0, 0.0, 20.0])
    face = replace(face, cameras=replace(face.cameras, targets=cameras))
    generated = perfect([face])
    shown = replace(generated, views=-torch.ones_like(generated.views))
    monkeypatch.setattr(measure, "detect_faces", lambda image: [] if bool((image == -1).all()) else ["a face"])
    [scores] = score([face], shown, "")
    assert [view.face_found for view in scores.views] == [False, None, False]
    assert [view.face_found_in_truth for view in scores.views] == [True, None, True]


def test_wrong_size_is_refused(model: NVBModel, faces: list[BenchmarkFace]) -> None:
    large = replace(faces[0], image=torch.zeros(3, 64, 64))
    with pytest.raises(ConfigError, match="the model needs"):
        generate(model, [large], SETTINGS)


def test_machine_name_tells_processor_and_cores() -> None:
    assert machine_name(torch.device("cpu")).endswith(" cores")
