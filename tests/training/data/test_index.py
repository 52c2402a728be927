from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from nvb_core.cameras import Cameras
from nvb_core.errors import ConfigError, OutputError
from training.data import derived_split, read_index, write_index

LABELS = Cameras.from_angles([-20.0, 30.0]).to_eg3d()


def test_round_trip(tmp_path: Path) -> None:
    write_index(tmp_path, ["a/0.png", "b/0.png"], LABELS, ["a", "b"], {"margin": 1.25})
    index = read_index(tmp_path)
    assert (index.paths, index.subjects, index.meta) == (("a/0.png", "b/0.png"), ("a", "b"), {"margin": 1.25})
    assert (index.splits, index.has_camera.tolist()) == ((), [True, True])
    assert torch.equal(index.labels, LABELS)
    assert [p.name for p in tmp_path.iterdir()] == ["dataset.json"]
    assert json.loads((tmp_path / "dataset.json").read_text())["version"] == 1  # older readers take it


def test_round_trip_with_unknown_cameras_and_splits(tmp_path: Path) -> None:
    labels = LABELS.clone()
    labels[1] = math.nan
    write_index(tmp_path, ["a/0.png", "b/0.png"], labels, ["a", "b"], {}, ["train", "val"])
    index = read_index(tmp_path)
    assert (index.splits, index.has_camera.tolist()) == (("train", "val"), [True, False])
    assert torch.equal(index.labels[0], LABELS[0])
    content = json.loads((tmp_path / "dataset.json").read_text())
    assert (content["version"], content["labels"][1]) == (2, ["b/0.png", None])


def test_lone_images_are_those_of_subjects_without_any_camera(tmp_path: Path) -> None:
    labels = torch.full((5, 25), math.nan, dtype=torch.float64)
    labels[1] = LABELS[0]
    write_index(tmp_path, ["a/0.png", "a/1.png", "b/0.png", "b/1.png", "b/0.png"], labels, [*"aabbb"], {})
    index = read_index(tmp_path)
    assert index.is_lone == [False, False, True, True, False]
    assert index.is_view == [False, True, False, False, False]


def test_write_checks_what_it_is_given(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 paths, 2 labels"):
        write_index(tmp_path, ["a.png"], torch.zeros(2, 25), ["a", "a"], {})
    labels = LABELS.clone()
    labels[1, 3] = math.nan
    with pytest.raises(ValueError, match="labels must be finite"):
        write_index(tmp_path, ["a.png", "b.png"], labels, ["a", "b"], {})
    with pytest.raises(ValueError, match="is in train and in val"):
        write_index(tmp_path, ["a.png", "b.png"], LABELS, ["a", "a"], {}, ["train", "val"])
    assert not list(tmp_path.iterdir())


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").mkdir()
    with pytest.raises(OutputError, match=r"can.t be written"):
        write_index(tmp_path, ["a.png"], torch.zeros(1, 25), ["a"], {})
    assert [p.name for p in tmp_path.iterdir()] == ["dataset.json"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (json.dumps({"labels": [["a.png", [10**400] * 25]]}), r"labels\[0\] \(a.png\): .*not a finite number"),
        ("[" * 100_000, "not readable as JSON"),
        ("9" * 5000, "not readable as JSON"),
    ],
)
def test_numbers_and_depths_beyond_all_bounds(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(ConfigError, match=complaint):
        read_index(tmp_path)


def test_views_are_different_pictures_of_known_camera(tmp_path: Path) -> None:
    paths = ["a/mirror.png", "a/view_00.png", "a/view_01.png", "a/view_00.png", "b/view.png", "b/no_camera.png"]
    labels = torch.zeros(6, 25, dtype=torch.float64)
    labels[5] = torch.nan
    for kind, expected, most in (
        ("eg3d", [False, True, False, False, True, False], 1),  # one photo each, and its copies
        ("nersemble", [True, True, True, False, True, False], 3),
    ):
        write_index(tmp_path, paths, labels, [path[0] for path in paths], {"converted_from": kind})
        index = read_index(tmp_path)
        assert index.is_view == expected
        assert index.most_views == most


def test_copies_of_one_photo_stay_in_one_split(tmp_path: Path) -> None:
    """In EG3D's own folders, which name no subjects."""
    copies = ("", "_mirror", "_00", "_01", "_mirror_00")
    paths = [f"{i // 100:05d}/img{i:08d}{copy}.png" for i in range(200) for copy in copies]
    label = LABELS[0].tolist()
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": [[path, label] for path in paths]}))
    index = read_index(tmp_path)
    assert len(set(index.subjects)) == 200
    for split in ("train", "val", "test"):
        kept = index.only(split).paths
        assert len(kept) == 5 * len({path[:17] for path in kept}) > 0
    assert [path for path, is_view in zip(paths, index.is_view, strict=True) if is_view] == paths[::5]
    assert index.most_views == 1


def test_splits_of_the_file_win_over_derived_ones(tmp_path: Path) -> None:
    paths, subjects = ["a/0.png", "b/0.png"], ["a", "b"]
    write_index(tmp_path, paths, LABELS, subjects, {}, ["val", "test"])
    index = read_index(tmp_path)
    assert index.only("all") is index
    assert (index.only("val").paths, index.only("test").subjects, index.only("train").paths) == (
        ("a/0.png",),
        ("b",),
        (),
    )
    assert torch.equal(index.only("test").labels, LABELS[1:])
    write_index(tmp_path, paths, LABELS, subjects, {})
    index = read_index(tmp_path)
    for split in ("train", "val", "test"):
        assert index.only(split).subjects == tuple(s for s in subjects if derived_split(s) == split)


def test_derived_splits_are_fixed_and_have_their_shares() -> None:
    assert [derived_split(f"heads-{i:08d}") for i in (0, 84, 27)] == ["train", "val", "test"]
    counts = Counter(derived_split(f"subject {i}") for i in range(4000))
    assert counts["train"] == pytest.approx(3600, abs=80)
    assert counts["val"] == pytest.approx(200, abs=60)
    assert counts["test"] == pytest.approx(200, abs=60)


@given(st.text())
@example("caf\udce9")  # of a file's name that isn't Unicode
def test_any_name_has_a_split(name: str) -> None:
    assert derived_split(name) in ("train", "val", "test")
