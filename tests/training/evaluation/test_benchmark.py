from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from nvb_core.errors import ConfigError, OutputError
from training.evaluation import benchmark as module
from training.evaluation.benchmark import RIG_DEG, Benchmark, BenchmarkSettings, FaceCameras, sample_cameras
from training.evaluation.metrics import warped_psnr
from training.heads.expression import sample_expression
from training.heads.identity import sample_identity
from training.heads.render import render
from training.heads.scene import build_scene

SEED = 1_000_000


@pytest.mark.parametrize("views", [2, 8])
def test_cameras_keep_to_their_ranges(views: int) -> None:
    yaws = []
    for seed in range(SEED, SEED + 50):
        cameras = sample_cameras(seed, views)
        front, targets, pair = (c.angles() for c in (cameras.input, cameras.targets, cameras.pair))
        assert abs(front.yaw_deg) <= 20
        assert abs(front.pitch_deg) <= 10
        assert len(targets.yaw_deg) == views
        assert targets.yaw_deg.abs().max() <= 45
        assert targets.pitch_deg.abs().max() <= 20
        assert (targets.yaw_deg.abs() <= 15).sum() >= 2
        assert float(pair.yaw_deg.diff()) == pytest.approx(5)
        assert float(pair.pitch_deg.diff()) == pytest.approx(0, abs=1e-9)
        assert pair.yaw_deg.abs().max() <= 45 + 1e-9
        yaws += targets.yaw_deg.tolist()
    assert max(yaws) > (40 if views == 8 else 14)
    assert min(yaws) < (-40 if views == 8 else -14)


def test_the_rig_is_the_same_around_all_heads() -> None:
    first, other = (sample_cameras(seed, 16, "rig") for seed in (SEED, SEED + 1))
    assert torch.equal(first.targets.to_eg3d(), other.targets.to_eg3d())
    assert torch.equal(first.input.to_eg3d(), sample_cameras(SEED, 16).input.to_eg3d())
    assert not torch.equal(first.input.to_eg3d(), other.input.to_eg3d())
    angles = first.targets.angles()
    assert len(first.targets) == 16
    assert float(angles.yaw_deg.max() - angles.yaw_deg.min()) == pytest.approx(93)
    assert float(angles.pitch_deg.max() - angles.pitch_deg.min()) == pytest.approx(32)
    assert len(set(zip(angles.yaw_deg.tolist(), angles.pitch_deg.tolist(), strict=True))) == 16
    mirrored = {(-round(yaw, 6), round(pitch, 6)) for yaw, pitch in RIG_DEG}
    assert mirrored == set(RIG_DEG)
    with pytest.raises(ConfigError, match="views is 8, the rig has 16 cameras"):
        BenchmarkSettings(8, 32, "rig")


def test_cameras_are_a_function_of_the_seed() -> None:
    first, again, other = (sample_cameras(seed, 8).all.to_eg3d() for seed in (SEED, SEED, SEED + 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    split = FaceCameras.split(sample_cameras(SEED, 8).all)
    assert (len(split.input), len(split.targets), len(split.pair)) == (1, 8, 2)
    assert torch.equal(split.all.to_eg3d(), first)


def test_rendered_face_is_what_the_renderer_makes(heads: Benchmark) -> None:
    settings = heads.settings
    face = heads.load(SEED)
    cameras = sample_cameras(SEED, settings.views)
    assert torch.equal(face.cameras.all.to_eg3d(), cameras.all.to_eg3d())
    scene = build_scene(sample_identity(SEED), sample_expression(SEED), settings.image_size)
    views = render(scene, cameras.all, settings.image_size, 4)
    images = torch.cat([face.image[None], face.targets, *(view.image[None] for view in face.pair)])
    assert float((images - views.rgb).abs().max()) <= 0.5 / 127.5 + 1e-6
    for view, depth in zip(face.pair, views.depth[-2:], strict=True):
        assert torch.equal(view.depth, depth)
        assert bool(view.depth[view.region].isfinite().all())
        assert 0.05 < float(view.region.float().mean()) < 0.8


def test_true_neighbours_agree(heads: Benchmark) -> None:
    for seed in (SEED, SEED + 1):
        first, second = heads.load(seed).pair
        score = warped_psnr(first, second)
        assert score is not None
        assert score > 25  # 38 dB at 128 px
        swapped = warped_psnr(first, type(second)(second.image, second.depth, second.region, first.camera))
        assert swapped is None or swapped < score


def test_nothing_is_rendered_twice(heads: Benchmark) -> None:
    assert heads.missing([SEED, SEED + 1, SEED + 2]) == [SEED + 2]
    assert list(heads.render([SEED, SEED + 1], workers=1)) == []


def test_what_a_killed_run_left_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = Benchmark(tmp_path, BenchmarkSettings(2, 16))

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_file", fail)
        with pytest.raises(KeyboardInterrupt):
            list(benchmark.render([SEED], workers=1))
    assert [path.name for path in benchmark.folder.iterdir()] == ["settings.json"]
    abandoned, others = (benchmark.folder / f".{SEED:08d}.{pid}.partial" for pid in (1, 2))
    for folder in (abandoned, others):
        folder.mkdir()
    hours_ago = time.time() - 2 * module.ABANDONED_SECONDS
    os.utime(abandoned, (hours_ago, hours_ago))
    assert list(benchmark.render([SEED], workers=1)) == [SEED]
    assert {path.name for path in benchmark.folder.iterdir()} == {"settings.json", f"{SEED:08d}", others.name}


def test_another_evaluation_was_quicker(heads: Benchmark) -> None:
    before = heads.load(SEED).targets
    module.render_face(heads.folder, SEED, heads.settings)
    assert torch.equal(heads.load(SEED).targets, before)
    assert not list(heads.folder.glob(".*.partial"))


def test_another_process_renders_the_same(heads: Benchmark, tmp_path: Path) -> None:
    benchmark = Benchmark(tmp_path, heads.settings)
    assert list(benchmark.render([SEED], workers=2)) == [SEED]
    assert torch.equal(benchmark.load(SEED).targets, heads.load(SEED).targets)


def test_other_settings_use_another_folder(tmp_path: Path) -> None:
    folders = {Benchmark(tmp_path, BenchmarkSettings(views, size)).folder for views in (2, 3) for size in (16, 32)}
    assert len(folders) == 4
    assert Benchmark(tmp_path, BenchmarkSettings(2, 16)).folder in folders


@pytest.mark.parametrize("views", [1, 65])
def test_bad_number_of_views(views: int) -> None:
    with pytest.raises(ConfigError, match=f"views is {views}, must be in 2–64"):
        BenchmarkSettings(views, 32)


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can't be written"):
        list(Benchmark(tmp_path / "file", BenchmarkSettings(2, 16)).render([SEED], workers=1))
