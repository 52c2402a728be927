from __future__ import annotations

from pathlib import Path

import pytest

from nvb_core.cameras import Cameras
from nvb_core.errors import ConfigError
from training.data.index import derived_split, write_index
from training.data.nersemble.splits import for_testing, splits_of

LABELS = Cameras.from_angles([-20.0, 30.0]).to_eg3d()
TEST, OTHER_TEST = [name for name in (f"{i:03d}" for i in range(200)) if derived_split(name) == "test"][:2]
TRAIN = next(name for name in (f"{i:03d}" for i in range(200)) if derived_split(name) == "train")


def test_what_an_earlier_run_was_told_is_kept(tmp_path: Path) -> None:
    paths = [f"{name}/FREE-00001-1.png" for name in (TEST, TRAIN)]
    write_index(tmp_path, paths, LABELS, paths, {}, ["train", "test"])
    assert for_testing((), tmp_path) == {TRAIN}
    assert for_testing((str(int(TEST)),), tmp_path) == {TEST}
    assert splits_of([TEST, TRAIN, OTHER_TEST], {TRAIN}) == ["train", "test", "train"]


def test_without_a_word_splits_stay_derived_ones(tmp_path: Path) -> None:
    assert for_testing((), tmp_path) == set()
    paths = [f"{name}/FREE-00001-1.png" for name in (TEST, TRAIN)]
    write_index(tmp_path, paths, LABELS, paths, {}, ["test", "train"])
    assert for_testing((), tmp_path) == set()
    assert splits_of([TEST, TRAIN, OTHER_TEST], set()) == ["test", "train", "test"]


def test_a_damaged_index(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(ConfigError, match=r"dataset\.json: not readable as JSON"):
        for_testing((), tmp_path)
