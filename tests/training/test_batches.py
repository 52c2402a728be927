from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nvb_core.align import CropBox, crop_cameras
from nvb_core.cameras import DEFAULT_FOV_DEG, Cameras
from nvb_core.degradation import PRESETS
from nvb_core.errors import ConfigError
from training.batches import (
    CropJitter,
    RestorationBatch,
    ViewBatch,
    _choose_images,
    _choose_views,
    batch_generator,
    jittered_crops,
    sample_crops,
    sample_restoration_batch,
    sample_view_batch,
)
from training.data import FaceFolder, FaceSource, InMemory, to_float
from training.loop import to_device
from training.tones import TRUE_COLOURS, ToneJitter

SIZE, SIDE = 64, 80  # canonical crop and whole image: margin 1.25
POINT = torch.tensor([[0.06, -0.04, 0.12]], dtype=torch.float64)
ALWAYS, NEVER = CropJitter(probability=1.0), CropJitter(probability=0.0)
CLEAN = PRESETS["level0"]


def draw_dot(position: Tensor) -> Tensor:
    """(3, SIDE, SIDE) uint8: a soft white dot on black at normalised image coordinates (2,)."""
    axis = (torch.arange(SIDE) + 0.5) / SIDE
    squared = (axis[None] - position[0]) ** 2 + (axis[:, None] - position[1]) ** 2
    return (255 * torch.exp(-squared * SIDE**2 / (2 * 1.5**2))).byte().expand(3, -1, -1)


def find_dot(image: Tensor) -> Tensor:
    """Centroid (2,) of the dot in (3, S, S) in [-1, 1], in pixels."""
    weight = (image.mean(0) + 1).clamp_min(0)
    axis = torch.arange(image.shape[-1]) + 0.5
    return torch.stack([(weight.sum(0) * axis).sum(), (weight.sum(1) * axis).sum()]) / weight.sum()


def same(first: Any, second: Any) -> bool:
    return torch.equal(first, second) if isinstance(first, Tensor) else first == second


def in_memory(pixels: Tensor, cameras: Cameras, has_camera: Tensor | None = None) -> FaceSource:
    known = torch.ones(len(pixels), dtype=torch.bool) if has_camera is None else has_camera
    side = pixels.shape[-1]
    return FaceSource(Path("memory"), (), side, pixels, cameras, known, side / SIDE * SIZE)


@pytest.fixture(scope="module")
def folder() -> FaceFolder:
    """Five subjects seen from four sides each; every picture shows where POINT projects to."""
    yaw, pitch = torch.linspace(-35, 35, 20), torch.linspace(-12, 18, 20).flip(0)
    fov = 2 * math.degrees(math.atan(1.25 * math.tan(math.radians(DEFAULT_FOV_DEG / 2))))
    cameras = Cameras.from_angles(yaw, pitch, fov_deg=fov)
    pixels = torch.stack([draw_dot(p[0]) for p in cameras.project(POINT)])
    return FaceFolder((in_memory(pixels, cameras),), tuple(np.arange(20).reshape(5, 4)), SIZE)


def centre_crops(folder: FaceFolder) -> Tensor:
    source = folder.sources[0]
    return source.canonical_crops(to_float(source.images(torch.arange(len(source)))), SIZE)


def assert_dots(images: Tensor, vectors: Tensor) -> int:
    """Each image shows POINT, or mirrored POINT, where its camera vector says; returns how many are mirrored."""
    cameras = Cameras.from_vector(vectors)
    mirrored_point = POINT * torch.tensor([-1.0, 1, 1])
    mirrored = 0
    for image, camera in zip(images, cameras, strict=True):
        seen = find_dot(image)
        plain, flipped = (float((seen - camera.project(p)[0, 0] * SIZE).norm()) for p in (POINT, mirrored_point))
        assert min(plain, flipped) < 0.5
        assert max(plain, flipped) > 2
        mirrored += flipped < plain
    return mirrored


def test_jittered_crops_have_exact_cameras(folder: FaceFolder) -> None:
    rng = np.random.default_rng(0)
    source = folder.sources[0]
    boxes = [ALWAYS.sample(rng, source.canonical_box) for _ in range(20)]
    crops, cameras = jittered_crops(to_float(source.images(torch.arange(20))), source.cameras, boxes, SIZE)
    assert crops.shape == (20, 3, SIZE, SIZE)
    assert assert_dots(crops, cameras.to_vector()) == 0
    one_by_one = [crop_cameras(camera, box, SIDE, SIDE) for camera, box in zip(source.cameras, boxes, strict=True)]
    torch.testing.assert_close(cameras.to_eg3d(), Cameras.cat(one_by_one).to_eg3d())


def test_jitter_covers_its_ranges(folder: FaceFolder) -> None:
    rng = np.random.default_rng(0)
    canonical = folder.sources[0].canonical_box
    boxes = [ALWAYS.sample(rng, canonical) for _ in range(500)]
    scales = np.array([b.size_px for b in boxes]) / SIZE
    shifts = np.array([(b.center_x - SIDE / 2) / b.size_px for b in boxes])
    rolls = np.array([b.roll_deg for b in boxes])
    for values, low, high in ((scales, 0.8, 1.25), (shifts, -0.08, 0.08), (rolls, -12, 12)):
        assert low <= values.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < values.max() <= high
    assert np.median(np.log(scales)) == pytest.approx(0, abs=0.03)
    assert NEVER.sample(rng, canonical) == canonical == CropBox(SIDE / 2, SIDE / 2, SIZE)


@pytest.mark.parametrize("bad", [{"scale": (1.2, 0.8)}, {"shift": -0.1}, {"roll_deg": 200}, {"probability": 2}])
def test_bad_jitter(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="crop jitter"):
        CropJitter(**bad)  # type: ignore[arg-type]


def test_unjittered_crops_are_the_exact_centre(folder: FaceFolder) -> None:
    crops, cameras, _ = sample_crops(folder, 12, np.random.default_rng(0), NEVER)
    centre = centre_crops(folder)
    both = torch.cat([centre, centre.flip(-1)])
    distance = (crops[:, None] - both[None]).abs().amax(dim=(2, 3, 4)).amin(dim=1)
    assert float(distance.max()) < 1e-5
    assert 0 < assert_dots(crops, cameras.to_vector()) < 12


def test_restoration_batch(folder: FaceFolder) -> None:
    clean = sample_restoration_batch(folder, 6, batch_generator(0, 0, 0), ranges=CLEAN)
    assert clean.lq.shape == (6, 3, SIZE, SIZE)
    assert torch.equal(clean.lq, clean.target)
    degraded = sample_restoration_batch(folder, 6, batch_generator(0, 0, 0))
    assert torch.equal(degraded.target, clean.target)
    assert torch.equal(degraded.cameras, clean.cameras)
    assert_dots(clean.target, clean.cameras)
    toned = sample_restoration_batch(folder, 6, batch_generator(0, 0, 0), ranges=CLEAN, tones=ToneJitter(1.0))
    assert torch.equal(toned.lq, toned.target)
    assert torch.equal(toned.cameras, clean.cameras)
    assert bool(((toned.lq - clean.lq).abs().amax(dim=(1, 2, 3)) > 0.1).all())
    assert bool(((degraded.lq - degraded.target).abs().amax(dim=(1, 2, 3)) > 0).all())


def test_view_batch_cameras_match_pictures(folder: FaceFolder) -> None:
    batch = sample_view_batch(folder, 8, 3, batch_generator(0, 0, 0), ALWAYS, CLEAN)
    sources = assert_dots(batch.lq, batch.source_cameras)
    targets = assert_dots(batch.targets.flatten(0, 1), batch.target_cameras.flatten(0, 1))
    assert 0 < sources < 8
    assert targets == 3 * sources  # a face is mirrored in all its views or in none
    assert torch.equal(batch.degraded_targets, batch.targets)


def test_view_batch_targets_are_canonical_views_of_the_same_subject(folder: FaceFolder) -> None:
    batch = sample_view_batch(folder, 8, 2, batch_generator(0, 0, 0), NEVER, CLEAN, source_target_probability=0)
    centre = centre_crops(folder)
    pictures = torch.cat([centre, centre.flip(-1)]).flatten(1)
    shown = torch.cat([batch.lq[:, None], batch.targets], dim=1).flatten(2)  # (B, 1 + N, ...)
    found = torch.cdist(shown.flatten(0, 1), pictures).argmin(dim=1).view(8, 3) % 20
    assert bool((found // 4 == found[:, :1] // 4).all())
    assert all(len(set(row)) == 3 for row in found.tolist())


def test_view_batch_may_target_the_source(folder: FaceFolder) -> None:
    batch = sample_view_batch(folder, 4, 2, batch_generator(0, 0, 0), NEVER, CLEAN, source_target_probability=1)
    torch.testing.assert_close(batch.targets[:, 0], batch.lq)
    torch.testing.assert_close(batch.target_cameras[:, 0], batch.source_cameras)


def test_targets_may_be_cropped_loosely(folder: FaceFolder) -> None:
    def batch(target_jitter: CropJitter) -> ViewBatch:
        key = batch_generator(0, 0, 0)
        return sample_view_batch(folder, 8, 3, key, ALWAYS, CLEAN, 0.5, target_jitter=target_jitter)

    loose, canonical = batch(ALWAYS), batch(NEVER)
    assert_dots(loose.targets.flatten(0, 1), loose.target_cameras.flatten(0, 1))
    assert torch.equal(loose.lq, canonical.lq)
    assert torch.equal(loose.target_images, canonical.target_images)
    different = (loose.target_cameras - canonical.target_cameras).abs().amax(dim=2) > 1e-3
    assert different.all()
    own = (loose.target_cameras[:, 0] == loose.source_cameras).all(dim=1)
    assert 0 < int(own.sum()) < 8
    torch.testing.assert_close(loose.targets[own, 0], loose.lq[own])
    some = batch(CropJitter(probability=0.5)).target_cameras - canonical.target_cameras
    assert 0 < int((some.abs().amax(dim=2) > 1e-3).sum()) < 24


def test_pictures_of_a_face_are_toned_alike_before_they_are_degraded(folder: FaceFolder) -> None:
    plain, toned = (
        sample_view_batch(folder, 4, 2, batch_generator(0, 0, 0), NEVER, CLEAN, 1.0, tones=tones)
        for tones in (TRUE_COLOURS, ToneJitter(1.0))
    )
    torch.testing.assert_close(toned.targets[:, 0], toned.lq, atol=1e-4, rtol=0)
    assert torch.equal(toned.degraded_targets, toned.targets)
    assert torch.equal(toned.target_images, plain.target_images)
    assert bool(((toned.targets - plain.targets).abs().amax(dim=(1, 2, 3, 4)) > 0.1).all())


def test_targets_are_degraded_like_the_source(folder: FaceFolder) -> None:
    source = folder.sources[0]
    still = FaceFolder(
        (in_memory(source.images(torch.zeros(20, dtype=torch.long)), source.cameras),), folder.views, SIZE
    )
    batch = sample_view_batch(still, 3, 2, batch_generator(0, 0, 0), NEVER)
    for lq, targets in zip(batch.lq, batch.degraded_targets, strict=True):
        spread = (targets - lq).std()
        strength = (lq - batch.targets[0, 0]).std()
        assert float(spread) < max(1.5 * float(strength), 0.05)
    other = (batch.degraded_targets[0] - batch.degraded_targets[1]).abs().max()
    assert float(other) > 0


def test_view_batch_needs_enough_views(folder: FaceFolder) -> None:
    with pytest.raises(ConfigError, match="no subject has the 5 images"):
        sample_view_batch(folder, 2, 4, batch_generator(0, 0, 0))


def test_batches_are_pure_functions_of_seed_step_and_rank(folder: FaceFolder) -> None:
    def restoration(*key: int) -> RestorationBatch:
        return sample_restoration_batch(folder, 2, batch_generator(*key))

    def views(*key: int) -> ViewBatch:
        return sample_view_batch(folder, 2, 2, batch_generator(*key))

    for make in (restoration, views):
        first, again = make(1, 2, 3), make(1, 2, 3)
        for field in fields(first):
            assert same(getattr(first, field.name), getattr(again, field.name))
        for key in ((0, 2, 3), (1, 0, 3), (1, 2, 0)):
            assert not torch.equal(first.lq, make(*key).lq)


def weighted_sum(tensor: Tensor) -> float:
    weights = torch.linspace(-1, 1, tensor.numel(), dtype=torch.float64)
    return float((tensor.double().flatten() * weights).sum())


@pytest.mark.parametrize("in_memory", ["yes", "no"])
def test_batches_stay_what_they_always_were(faces: Path, in_memory: InMemory) -> None:
    """Sums as they were before folders could be mixed or read from disk: a run that is resumed sees the same data."""
    folder = FaceFolder.load(faces, 32, in_memory=in_memory)
    restoration = sample_restoration_batch(folder, 4, batch_generator(3, 5, 1))
    for name, value in {"lq": 195.2500, "target": 184.5721, "cameras": 0.2563}.items():
        assert weighted_sum(getattr(restoration, name)) == pytest.approx(value, abs=0.02 if name == "lq" else 2e-3)
    first = [0.7687605023384094, 0.8461942076683044, 0.9384058713912964, 0.8618670701980591]
    assert restoration.cameras[:, 0].tolist() == pytest.approx(first, abs=1e-6)
    views = sample_view_batch(folder, 3, 2, batch_generator(3, 5, 1))
    old = {"lq": -351.9775, "source_cameras": 0.9782, "targets": 296.0582, "target_cameras": 1.4481}
    for name, value in {**old, "degraded_targets": 294.8361}.items():
        tolerance = 0.05 if name in ("lq", "degraded_targets") else 2e-3
        assert weighted_sum(getattr(views, name)) == pytest.approx(value, abs=tolerance)


def mixed(folder: FaceFolder, weights: tuple[float, ...] = ()) -> FaceFolder:
    """The folder and, after it, a second one of twice the resolution and unknown cameras in every second view."""
    source = folder.sources[0]
    double = source.images(torch.arange(20)).repeat_interleave(2, -1).repeat_interleave(2, -2)
    other = in_memory(double, source.cameras, torch.arange(20) % 2 == 0)
    more = tuple(np.arange(20, 40, 2).reshape(5, 2))
    return FaceFolder((source, other), (*folder.views, *more), SIZE, weights)


def test_mixed_sizes_keep_pictures_and_cameras_together(folder: FaceFolder) -> None:
    both = mixed(folder)
    batch = sample_restoration_batch(both, 24, batch_generator(0, 0, 0), ALWAYS, CLEAN)
    assert 0 < int(batch.has_camera.sum()) < 24
    assert bool((batch.cameras[~batch.has_camera] == 0).all())
    assert_dots(batch.target[batch.has_camera], batch.cameras[batch.has_camera])
    views = sample_view_batch(both, 24, 1, batch_generator(0, 0, 0), ALWAYS, CLEAN)
    assert_dots(views.lq, views.source_cameras)
    assert_dots(views.targets.flatten(0, 1), views.target_cameras.flatten(0, 1))


def test_mixing_weights(folder: FaceFolder) -> None:
    both = mixed(folder, (1e-9, 1.0))
    assert (_images(both) >= 20).all()
    assert (_images(replace(both, weights=(1.0, 1e-9))) < 20).all()
    shares = (_images(replace(both, weights=(3.0, 1.0))) < 20).mean()
    assert shares == pytest.approx(0.75, abs=0.04)


def _images(folder: FaceFolder) -> np.ndarray:
    return _choose_images(folder, 2000, batch_generator(0, 0, 0))


def test_mixing_weights_of_subjects(folder: FaceFolder) -> None:
    for weights, share in (((), 0.5), ((3.0, 1.0), 0.75)):
        chosen = _choose_views(mixed(folder, weights), 2000, 1, batch_generator(0, 0, 0), 0.1)
        assert (chosen[:, 0] < 20).mean() == pytest.approx(share, abs=0.04)
        assert ((chosen < 20).all(axis=1) | (chosen >= 20).all(axis=1)).all()
    only_first = _choose_views(mixed(folder, (1.0, 99.0)), 200, 3, batch_generator(0, 0, 0), 0.1)
    assert (only_first < 20).all()  # the second has too few views


def with_lone_pictures(folder: FaceFolder) -> FaceFolder:
    """The folder and, after it, ten pictures of unknown camera, each the only one of its subject."""
    source = folder.sources[0]
    frontal = Cameras(source.cameras.cam2world.clone(), source.cameras.intrinsics)
    frontal.cam2world[:] = Cameras.from_angles(0.0).cam2world
    alone = in_memory(source.images(torch.arange(10)), frontal[:10], torch.zeros(10, dtype=torch.bool))
    return FaceFolder((source, alone), (*folder.views, *np.arange(20, 30)[:, None]), SIZE)


def test_own_views_repeat_the_pictures_that_a_subject_has(folder: FaceFolder) -> None:
    both, key = with_lone_pictures(folder), (0, 0, 0)
    chosen = _choose_views(both, 500, 3, batch_generator(*key), 0.0, own_views=True)
    lone = chosen[:, 0] >= 20
    assert lone.mean() == pytest.approx(10 / 15, abs=0.06)
    assert (chosen[lone] == chosen[lone, :1]).all()
    assert all(len(set(row)) == 4 for row in chosen[~lone].tolist())
    of_two = _choose_views(FaceFolder(both.sources, (np.array([4, 7]),), SIZE), 9, 4, batch_generator(*key), 0.0, True)
    assert {tuple(row) for row in of_two.tolist()} == {(4, 7, 4, 7, 4), (7, 4, 7, 4, 7)}
    assert (_choose_views(both, 500, 3, batch_generator(*key), 0.0) < 20).all()


def test_own_views_are_crops_of_the_photo_under_a_lent_pose(folder: FaceFolder) -> None:
    both = with_lone_pictures(folder)
    batch = sample_view_batch(both, 24, 2, batch_generator(0, 0, 0), NEVER, CLEAN, target_jitter=ALWAYS, own_views=True)
    lone = ~batch.has_camera
    assert 4 < int(lone.sum()) < 22
    # The photo's own picture, its camera's pose and a shift, zoom or roll of both.
    torch.testing.assert_close(batch.targets[lone, 0], batch.lq[lone])
    torch.testing.assert_close(batch.target_cameras[lone, 0], batch.source_cameras[lone])
    moved = (batch.target_cameras[lone, 1:] - batch.source_cameras[lone, None]).abs().amax(dim=2)
    assert bool((moved > 1e-3).all())
    position, lenders = batch.source_cameras[lone][:, [3, 7, 11]], folder.sources[0].cameras.to_vector()[:, [3, 7, 11]]
    assert bool((torch.cdist(position, lenders).amin(dim=1) < 1e-4).all())
    assert len(position.unique(dim=0)) > 1
    assert_dots(batch.lq[~lone], batch.source_cameras[~lone])
    assert_dots(batch.targets[~lone].flatten(0, 1), batch.target_cameras[~lone].flatten(0, 1))


def test_batches_check_shapes() -> None:
    image, views = torch.zeros(2, 3, 8, 8), torch.zeros(2, 4, 3, 8, 8)
    with pytest.raises(ValueError, match="target is"):
        RestorationBatch(image, image[:1], torch.zeros(2, 16), torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match="cameras is"):
        RestorationBatch(image, image, torch.zeros(1, 16), torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match="has_camera is"):
        RestorationBatch(image, image, torch.zeros(2, 16), torch.ones(1, dtype=torch.bool))
    ViewBatch(image, torch.zeros(2, 16), views, torch.zeros(2, 4, 16), views)
    with pytest.raises(ValueError, match="target_cameras is"):
        ViewBatch(image, torch.zeros(2, 16), views, torch.zeros(2, 3, 16), views)


def test_pictures_degraded_later_are_the_same(folder: FaceFolder) -> None:
    """What is left to the device is what a worker would do."""
    now, later = (
        sample_restoration_batch(folder, 3, np.random.default_rng(1), degrade_later=later) for later in (False, True)
    )
    assert torch.equal(later.lq, later.target)
    assert torch.equal(to_device(later, torch.device("cpu")).lq, now.lq)
    views_now, views_later = (
        sample_view_batch(folder, 2, 2, np.random.default_rng(1), degrade_later=later) for later in (False, True)
    )
    assert torch.equal(views_later.degraded_targets, views_later.targets)
    done = to_device(views_later, torch.device("cpu"))
    assert torch.equal(done.lq, views_now.lq)
    assert torch.equal(done.degraded_targets, views_now.degraded_targets)
    assert not torch.equal(done.degraded_targets, done.targets)
