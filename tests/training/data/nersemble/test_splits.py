from __future__ import annotations

from pathlib import Path

import pytest

from nvb_core.cameras import Cameras
from nvb_core.errors import ConfigError
from tests.training.data.nersemble.made_up import known_registration, write_participant
from training.data.index import derived_split, read_index, write_index
from training.data.nersemble.convert import Options, convert
from training.data.nersemble.layout import read_capture
from training.data.nersemble.splits import NAMED, for_testing, splits_of

LABELS = Cameras.from_angles([-20.0, 30.0]).to_eg3d()
TEST, OTHER_TEST = [name for name in (f"{i:03d}" for i in range(200)) if derived_split(name) == "test"][:2]
TRAIN = next(name for name in (f"{i:03d}" for i in range(200)) if derived_split(name) == "train")


@pytest.mark.parametrize("splits", [["train", "test"], ["train", "train"], ["test", "train"]])
def test_what_an_earlier_run_was_told_is_kept(tmp_path: Path, splits: list[str]) -> None:
    """Whatever came of it: all of a named one's recordings may be lost, and a choice may be as the derived one."""
    paths = [f"{name}/FREE-00001-1.png" for name in (TEST, TRAIN)]
    write_index(tmp_path, paths, LABELS, paths, {NAMED: [TRAIN]}, splits)
    assert for_testing((), tmp_path) == {TRAIN}
    assert for_testing((str(int(TEST)),), tmp_path) == {f"{int(TEST):03d}"}
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


def test_who_is_for_testing_stays_so(tmp_path: Path) -> None:
    options, out = Options(size=32, frames_per_sequence=2), tmp_path / "out"
    known = known_registration(write_participant(tmp_path / "src").parent)

    def splits(*named: str) -> dict[str, str]:
        capture = read_capture(tmp_path / "src")
        convert(capture, out, lambda pictures, cameras: known, options, named, show_progress=False)
        index = read_index(out)
        return {path[:3]: split for path, split in zip(index.paths, index.splits, strict=True)}

    write_participant(tmp_path / "src", "018")
    with pytest.raises(ConfigError, match="--test-participants 019: not among those converted, 017, 018"):
        splits("019")
    assert not out.exists()
    assert splits() == {name: derived_split(name) for name in ("017", "018")}
    assert splits("018") == {"017": "train", "018": "test"}
    write_participant(tmp_path / "src", "019")
    assert splits() == {"017": "train", "018": "test", "019": "train"}
    assert splits("17") == {"017": "test", "018": "train", "019": "train"}
