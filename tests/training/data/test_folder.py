from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from nvb_core.cameras import DEFAULT_FOV_DEG, FOCAL, Cameras
from nvb_core.errors import ConfigError
from training.data import FaceFolder, FaceSource, InMemory, to_float, write_index
from training.data import folder as folder_module

MARGIN = 1.25


def cameras_with_margin(count: int, margin: float = MARGIN) -> Cameras:
    cameras = Cameras.from_angles(
        torch.linspace(-40, 40, count), torch.linspace(-10, 15, count), fov_deg=DEFAULT_FOV_DEG
    )
    intrinsics = cameras.intrinsics.clone()
    intrinsics[:, :2, :2] /= margin
    return Cameras(cameras.cam2world, intrinsics)


def make_folder(folder: Path, subjects: int = 3, views: int = 4, size: int = 40, margin: float = MARGIN) -> Tensor:
    """A face folder of random pictures; returns their pixels (N, 3, H, H) uint8."""
    pixels = torch.from_numpy(
        np.random.default_rng(0).integers(256, size=(subjects * views, 3, size, size), dtype=np.uint8)
    )
    paths = [f"{s:08d}/{v:02d}.png" for s in range(subjects) for v in range(views)]
    for path, image in zip(paths, pixels, strict=True):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / path)
    names = [f"heads-{s:08d}" for s in range(subjects) for _ in range(views)]
    write_index(folder, paths, cameras_with_margin(len(paths), margin).to_eg3d(), names, {"seed": 1})
    return pixels


def edit_index(folder: Path, **changes: Any) -> None:
    path = folder / "dataset.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in {**index, **changes}.items() if v is not None}))


def only_source(folder: FaceFolder) -> FaceSource:
    (source,) = folder.sources
    return source


@pytest.mark.parametrize("in_memory", ["auto", "yes", "no"])
def test_load(tmp_path: Path, in_memory: InMemory) -> None:
    pixels = make_folder(tmp_path)
    folder = FaceFolder.load(tmp_path, size=32, in_memory=in_memory)
    source = only_source(folder)
    assert (source.pixels is None) == (in_memory == "no")
    assert torch.equal(source.images(torch.arange(12)), pixels)
    assert torch.equal(source.images(torch.tensor([7, 2])), pixels[[7, 2]])
    assert [v.tolist() for v in folder.views] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    torch.testing.assert_close(source.cameras.cam2world, cameras_with_margin(12).cam2world)
    assert source.canonical_px == 32


def test_auto_keeps_in_memory_what_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        make_folder(tmp_path / name)
    both = [tmp_path / "a", tmp_path / "b"]
    monkeypatch.setattr(folder_module, "IN_MEMORY_BYTES", 2 * 12 * 3 * 40 * 40)
    assert all(source.pixels is not None for source in FaceFolder.load(both, size=32).sources)
    monkeypatch.setattr(folder_module, "IN_MEMORY_BYTES", 2 * 12 * 3 * 40 * 40 - 1)
    assert all(source.pixels is None for source in FaceFolder.load(both, size=32).sources)


@pytest.mark.parametrize(("in_memory", "title"), [("yes", "loading images"), ("no", "checking images")])
def test_progress_goes_to_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], in_memory: InMemory, title: str
) -> None:
    make_folder(tmp_path)
    FaceFolder.load(tmp_path, size=32, show_progress=True, in_memory=in_memory)
    captured = capsys.readouterr()
    assert title in captured.err
    assert captured.out == ""


def test_eg3d_folder(tmp_path: Path) -> None:
    make_folder(tmp_path, size=32, margin=1.0)
    edit_index(tmp_path, format=None, version=None, subjects=None, meta=None)
    folder = FaceFolder.load(tmp_path, size=32)
    assert [v.tolist() for v in folder.views] == [[i] for i in range(12)]
    assert only_source(folder).canonical_px == 32


def test_folders_of_any_size_concatenate_without_mixing_subjects(tmp_path: Path) -> None:
    pixels = [make_folder(tmp_path / "a", subjects=2), make_folder(tmp_path / "b", 2, size=64, margin=1.0)]
    folder = FaceFolder.load([tmp_path / "a", tmp_path / "b"], size=32)
    assert len(folder) == 16
    assert [v.tolist() for v in folder.views] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert [source.canonical_px for source in folder.sources] == [32, 64]
    assert folder.subject_sources.tolist() == [0, 0, 1, 1]
    parts = folder.by_source(np.array([9, 1, 15, 8]))
    assert [(rows.tolist(), local.tolist()) for _, rows, local in parts] == [([1], [1]), ([0, 2, 3], [1, 7, 0])]
    for (source, _, local), expected in zip(parts, pixels, strict=True):
        assert torch.equal(source.images(local), expected[local])


def test_weights(tmp_path: Path) -> None:
    for name, subjects in (("a", 1), ("b", 3)):
        make_folder(tmp_path / name, subjects)
    both = [tmp_path / "a", tmp_path / "b"]
    assert FaceFolder.load(both, size=32).image_probabilities is None
    weighted = FaceFolder.load(both, size=32, weights=(3, 1))
    probabilities = weighted.image_probabilities
    assert probabilities is not None
    np.testing.assert_allclose(probabilities, [*[0.75 / 4] * 4, *[0.25 / 12] * 12])
    np.testing.assert_allclose(weighted.probabilities(weighted.subject_sources), [0.75, *[0.25 / 3] * 3])
    np.testing.assert_allclose(weighted.probabilities(np.array([1, 1])), [0.5, 0.5])
    with pytest.raises(ConfigError, match="1 data weights for 2 data folders"):
        FaceFolder.load(both, size=32, weights=(1,))
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="must be positive"):
            FaceFolder.load(both, size=32, weights=(1, bad))


def test_splits(tmp_path: Path) -> None:
    make_folder(tmp_path)
    edit_index(tmp_path, version=2, splits=["train"] * 4 + ["test"] * 4 + ["train"] * 4)
    folder = FaceFolder.load(tmp_path, size=32, split="test")
    assert [path.parent.name for path in only_source(folder).files] == ["00000001"] * 4
    assert len(FaceFolder.load(tmp_path, size=32, split="train")) == 8
    assert len(FaceFolder.load(tmp_path, size=32)) == 12
    with pytest.raises(ConfigError, match=f"{tmp_path.name}: no subject is in the split val"):
        FaceFolder.load(tmp_path, size=32, split="val")


def test_images_of_unknown_camera(tmp_path: Path) -> None:
    make_folder(tmp_path)
    labels = json.loads((tmp_path / "dataset.json").read_text())["labels"]
    edit_index(tmp_path, labels=[[path, label if i in (1, 4, 6) else None] for i, (path, label) in enumerate(labels)])
    folder = FaceFolder.load(tmp_path, size=32)
    assert len(folder) == 12
    assert only_source(folder).has_camera.nonzero().flatten().tolist() == [1, 4, 6]
    assert [v.tolist() for v in folder.views] == [[1], [4, 6]]
    folder.require_views(1)
    with pytest.raises(ConfigError, match=r"no subject has the 3 images .*most: 2; 9 of its 12 images have no camera"):
        folder.require_views(2)


def test_folder_without_any_camera(tmp_path: Path) -> None:
    make_folder(tmp_path, margin=1.0)
    labels = json.loads((tmp_path / "dataset.json").read_text())["labels"]
    edit_index(tmp_path, labels=[[path, None] for path, _ in labels])
    folder = FaceFolder.load(tmp_path, size=32)
    assert (only_source(folder).canonical_px, folder.views, folder.view_counts.tolist()) == (40, (), [])
    edit_index(tmp_path, meta={"margin": 1.25})
    folder = FaceFolder.load(tmp_path, size=32)
    assert only_source(folder).canonical_px == 32
    with pytest.raises(ConfigError, match=f"{tmp_path.name}: no subject has the 2 images with cameras"):
        folder.require_views(1)


def test_lone_pictures_count_as_one_view_on_demand(tmp_path: Path) -> None:
    make_folder(tmp_path / "posed", margin=1.25)
    make_folder(tmp_path / "lone", subjects=2)
    labels = json.loads((tmp_path / "lone" / "dataset.json").read_text())["labels"]
    edit_index(tmp_path / "lone", labels=[[path, None] for path, _ in labels], meta={"margin": 1.25})
    roots = [tmp_path / "posed", tmp_path / "lone"]
    folder = FaceFolder.load(roots, size=32, lone=True)
    assert [views.tolist() for views in folder.views] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
        *([i] for i in range(12, 20)),
    ]
    assert folder.posed.tolist() == list(range(12))
    assert torch.equal(folder.poses(np.array([3, 1])), folder.sources[0].cameras.cam2world[[3, 1]])
    folder.require_views(3, of_all=False)
    for complaint, needed, of_all in (("lone", 3, True), ("posed", 4, False)):
        with pytest.raises(ConfigError, match=f"{complaint}: no subject has the {needed + 1} images"):
            folder.require_views(needed, of_all)
    # A frontal camera of what is shown, margin and all.
    torch.testing.assert_close(folder.sources[1].canonical_cameras()[:1].to_eg3d(), Cameras.from_angles(0.0).to_eg3d())


def test_canonical_crop_is_the_exact_centre_with_the_canonical_camera(tmp_path: Path) -> None:
    pixels = make_folder(tmp_path)
    source = only_source(FaceFolder.load(tmp_path, size=32))
    assert torch.equal(source.canonical_crops(to_float(pixels), 32), to_float(pixels)[..., 4:36, 4:36])
    canonical = source.canonical_cameras()
    torch.testing.assert_close(canonical.cam2world, source.cameras.cam2world)
    expected = torch.tensor([[FOCAL, 0, 0.5], [0, FOCAL, 0.5], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(canonical.intrinsics, expected.expand(12, 3, 3))


def test_canonical_crop_resamples_to_smaller_sizes(tmp_path: Path) -> None:
    make_folder(tmp_path)
    source = only_source(FaceFolder.load(tmp_path, size=16))
    assert source.canonical_px == 32
    crops = source.canonical_crops(torch.full((2, 3, 40, 40), 0.25), 16)
    torch.testing.assert_close(crops, torch.full((2, 3, 16, 16), 0.25))


def test_margin_in_meta_wins(tmp_path: Path) -> None:
    make_folder(tmp_path)
    edit_index(tmp_path, meta={"margin": 2.0})
    assert only_source(FaceFolder.load(tmp_path, size=20)).canonical_px == 20


def test_labels_just_inside_the_canonical_view(tmp_path: Path) -> None:
    make_folder(tmp_path, margin=0.9999)
    assert only_source(FaceFolder.load(tmp_path, size=40)).canonical_px == 40


def test_to_float_range() -> None:
    assert to_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


GOOD = [1, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1, 2.7, 0, 0, 0, 1, 4.2647, 0, 0.5, 0, 4.2647, 0.5, 0, 0, 1]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"version": 9}, "version 9"),
        ({"format": "other"}, "'other'"),
        ({"labels": []}, "at least one"),
        ({"labels": {}}, "at least one"),
        ({"labels": [["00000000/00.png", GOOD], ["00000000/01.png"]]}, r"labels\[1\]"),
        ({"labels": [["00000000/00.png", GOOD[:24]]]}, r"labels\[0\] \(00000000/00.png\): label must be 25"),
        ({"labels": [["00000000/00.png", [*GOOD[:24], float("nan")]]]}, "not a finite number"),
        ({"labels": [["00000000/00.png", [*GOOD[:24], "1"]]]}, "not a finite number"),
        ({"labels": [["../00.png", GOOD]]}, "inside the folder"),
        ({"labels": [["/etc/x.png", GOOD]]}, "inside the folder"),
        ({"labels": [["00000000/00.png", [2, *GOOD[1:]]]], "subjects": ["a"]}, "bad label"),
        ({"labels": [["missing.png", GOOD]], "subjects": ["a"]}, "missing.png: listed in dataset.json but missing"),
        (
            {"labels": [["a.png", GOOD], ["a.png", None]], "subjects": ["a", "a"]},
            r"labels\[1\]: a.png has another label",
        ),
        ({"subjects": ["a"]}, "list of 12 strings"),
        ({"splits": ["train"]}, "splits must be 12 of train, val, test"),
        ({"splits": ["dev"] * 12}, "splits must be 12 of train, val, test"),
        ({"splits": ["train"] * 6 + ["test"] * 6}, "subject 'heads-00000001' is in train and in test"),
        ({"meta": 3}, "meta"),
        ({"meta": {"margin": 0}}, "margin"),
        ({"meta": {"margin": 0.5}}, r"margin is 0\.5, must be a number in 1–10"),
        ({"meta": {"margin": "wide"}}, "margin"),
    ],
)
def test_bad_index(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    make_folder(tmp_path)
    edit_index(tmp_path, **changes)
    with pytest.raises(ConfigError, match=complaint) as caught:
        FaceFolder.load(tmp_path, size=32)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        FaceFolder.load(tmp_path, size=32)
    (tmp_path / "dataset.json").write_text("{broken")
    with pytest.raises(ConfigError, match="not readable as JSON"):
        FaceFolder.load(tmp_path, size=32)
    with pytest.raises(ConfigError, match="no data folder"):
        FaceFolder.load([], size=32)


@pytest.mark.parametrize("in_memory", ["yes", "no"])
def test_bad_images(tmp_path: Path, in_memory: InMemory) -> None:
    make_folder(tmp_path)
    bad = tmp_path / "00000001" / "02.png"
    bad.write_bytes(bad.read_bytes()[:20])
    with pytest.raises(ConfigError, match=r"00000001.02\.png: not a readable image"):
        FaceFolder.load(tmp_path, size=32, in_memory=in_memory)
    Image.new("RGB", (20, 20)).save(bad)
    with pytest.raises(ConfigError, match=r"00000001.02\.png: 20 px wide"):
        FaceFolder.load(tmp_path, size=32, in_memory=in_memory)
    Image.new("I;16", (40, 40), 30_000).save(bad)
    with pytest.raises(ConfigError, match=r"02\.png: has more than 8 bits .*convert it with nvb-face data convert"):
        FaceFolder.load(tmp_path, size=32, in_memory=in_memory)
    Image.new("RGB", (40, 30)).save(bad)
    with pytest.raises(ConfigError, match=r"00000001.02\.png: 40x30 px, must be square"):
        FaceFolder.load(tmp_path, size=32, in_memory=in_memory)
    bad.unlink()
    with pytest.raises(ConfigError, match=r"00000001.02\.png: listed in dataset.json but missing"):
        FaceFolder.load(tmp_path, size=32, in_memory=in_memory)


@pytest.mark.parametrize("in_memory", ["yes", "no"])
def test_a_size_beyond_all_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: Any) -> None:
    make_folder(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # as if a damaged header claimed so many
    with pytest.raises(ConfigError, match="not a readable image"):
        FaceFolder.load(tmp_path, size=32, in_memory=in_memory)


def test_cut_off_images(tmp_path: Path) -> None:
    make_folder(tmp_path)
    bad = tmp_path / "00000001" / "02.png"
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(ConfigError, match=r"00000001.02\.png: not a readable image"):
        FaceFolder.load(tmp_path, size=32, in_memory="yes")
    source = only_source(FaceFolder.load(tmp_path, size=32, in_memory="no"))  # the header is whole
    assert len(source.images(torch.tensor([5]))) == 1
    with pytest.raises(ConfigError, match=r"00000001.02\.png: not a readable image"):
        source.images(torch.tensor([5, 6]))


def test_images_that_change_under_us(tmp_path: Path) -> None:
    make_folder(tmp_path)
    source = only_source(FaceFolder.load(tmp_path, size=32, in_memory="no"))
    Image.new("RGB", (20, 20)).save(tmp_path / "00000001" / "02.png")
    with pytest.raises(ConfigError, match=r"00000001.02\.png: 20 px wide"):
        source.images(torch.tensor([6]))


def test_sizes_must_fit(tmp_path: Path) -> None:
    make_folder(tmp_path)
    with pytest.raises(ConfigError, match="too small for size 64"):
        FaceFolder.load(tmp_path, size=64)
