from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nvb_core.errors import ConfigError
from tests.training.conftest import write_faces
from training.data import read_index
from training.data.load import load_faces
from training.options import RunOptions
from training.validation import validation_faces


def options(*data: Path, **changes: Any) -> RunOptions:
    settings = {"steps": 1, "batch_size": 1, "lr": 0.1, "validate_every": 1, **changes}
    return RunOptions(out=Path("x"), data=data, **settings)  # type: ignore[arg-type]


@pytest.fixture
def parted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of which subject-1 is held out."""
    folder = write_faces(tmp_path / "parted")
    monkeypatch.setattr(
        "training.data.index.derived_split", lambda subject: "val" if subject == "subject-1" else "train"
    )
    assert set(read_index(folder).only("val").subjects) == {"subject-1"}
    return folder


def test_a_run_on_the_training_split_is_measured_on_the_other(parted: Path) -> None:
    plan = options(parted, split="train")
    faces = load_faces(plan, 32, 0)
    held_out, source = validation_faces(plan, faces, 0)
    assert source == "val"
    assert (len(faces), len(held_out)) == (10, 5)
    trained = {name for s in faces.sources for name in s.files}
    assert not trained & {name for s in held_out.sources for name in s.files}


@pytest.mark.parametrize("changes", [{"split": "all"}, {"split": "train", "validate_every": 0}])
def test_else_on_what_it_trains_on(parted: Path, changes: dict[str, Any]) -> None:
    plan = options(parted, **changes)
    faces = load_faces(plan, 32, 0)
    assert validation_faces(plan, faces, 0) == (faces, "fixed")


def test_folders_without_enough_held_out_views_are_left_out(parted: Path, tmp_path: Path) -> None:
    few = write_faces(tmp_path / "few", views=2)
    plan = options(few, parted, split="train", data_weights=(3.0, 1.0))
    faces = load_faces(plan, 32, 0)
    held_out, _ = validation_faces(plan, faces, 0, views=3)
    assert [source.root for source in held_out.sources] == [parted]
    assert held_out.weights == (1.0,)
    assert np.array_equal(held_out.view_counts, [5])
    with pytest.raises(ConfigError, match=r"no subject to validate on .* with 7 images; use --split all"):
        validation_faces(plan, faces, 0, views=6)
