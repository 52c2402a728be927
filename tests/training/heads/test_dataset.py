from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nvb_core.cameras import FOCAL
from nvb_core.errors import ConfigError, OccupiedError, OutputError
from nvb_core.staging import locked
from training.data import read_index
from training.heads.cli import main
from training.heads.dataset import HeadSet, pending, render_set, render_subject
from training.heads.views import sample_view_cameras

SMALL = ["--count", "2", "--views", "2", "--size", "16", "--samples", "1", "--margin", "1.25", "--workers", "1"]
COMMAND = "import sys; from training.heads.cli import main; main(sys.argv[1:])"


def run(folder: Path, *more: str) -> None:
    assert main([*SMALL, "--out", str(folder), *more]) == 0


def pixels(folder: Path) -> dict[str, np.ndarray]:
    return {str(path.relative_to(folder)): np.asarray(Image.open(path)) for path in sorted(folder.glob("*/*.png"))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("heads")
    run(path, "--sheet", str(path / "sheet.png"))
    return path


def test_the_folder_reads_as_the_common_form(folder: Path) -> None:
    index = read_index(folder)
    assert index.paths == ("00000000/00.png", "00000000/01.png", "00000001/00.png", "00000001/01.png")
    assert index.subjects == ("heads-00000000",) * 2 + ("heads-00000001",) * 2
    assert index.meta["margin"] == 1.25
    labels = torch.as_tensor(index.labels)
    torch.testing.assert_close(labels[2:, :16].view(2, 4, 4), sample_view_cameras(1, 2).cam2world)
    torch.testing.assert_close(labels[:, 16], torch.full((4,), FOCAL / 1.25, dtype=torch.float64))
    assert {image.shape for image in pixels(folder).values()} == {(20, 20, 3)}
    assert sorted(p.name for p in folder.iterdir()) == ["00000000", "00000001", "dataset.json", "sheet.png"]
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.size == (40, 40)


def test_finished_subjects_are_kept_and_more_can_be_added(folder: Path, tmp_path: Path) -> None:
    run(tmp_path)
    stamp = (tmp_path / "00000000" / "00.png").stat().st_mtime_ns
    run(tmp_path, "--count", "3")
    assert (tmp_path / "00000000" / "00.png").stat().st_mtime_ns == stamp
    assert len(read_index(tmp_path).paths) == 6
    for name, image in pixels(folder).items():
        np.testing.assert_array_equal(pixels(tmp_path)[name], image)


@pytest.mark.parametrize("option", [("--size", "32"), ("--views", "3"), ("--samples", "4"), ("--margin", "1.5")])
def test_other_settings_need_another_folder(folder: Path, option: tuple[str, str]) -> None:
    before = (folder / "dataset.json").read_bytes()
    with pytest.raises(ConfigError, match=f"{option[0][2:]} .*choose another --out"):
        run(folder, *option)
    assert (folder / "dataset.json").read_bytes() == before


def test_a_share_of_the_heads_is_wild(folder: Path, tmp_path: Path) -> None:
    tame, half, wild = (HeadSet(0, 200, 2, 16, 1, 1.25, share) for share in (0.0, 0.5, 1.0))
    people = [half.identity(seed).bend is not None for seed in half.seeds]
    assert sum(people) == pytest.approx(100, abs=25)
    assert all(wild.identity(seed).bend is not None and tame.identity(seed).bend is None for seed in range(5))
    run(tmp_path, "--wild", "1")
    assert all((image != pixels(folder)[name]).any() for name, image in pixels(tmp_path).items())
    assert read_index(tmp_path).meta["wild"] == 1
    with pytest.raises(ConfigError, match=r"already holds images of other settings: wild 1\.0 \(not 0\.0\)"):
        run(tmp_path)


def test_a_folder_from_before_wild_heads_goes_on(tmp_path: Path) -> None:
    run(tmp_path)
    index = json.loads((tmp_path / "dataset.json").read_text())
    del index["meta"]["wild"]
    (tmp_path / "dataset.json").write_text(json.dumps(index))
    run(tmp_path, "--count", "3")
    assert len(read_index(tmp_path).paths) == 6


def test_heads_for_measuring_are_rendered_only_if_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"seeds 999999 to 1000000: heads from 1000000 on are for measuring"):
        run(tmp_path, "--first-seed", "999999")
    assert not list(tmp_path.iterdir())
    run(tmp_path, "--first-seed", "999999", "--allow-held-out-seeds")
    assert len(read_index(tmp_path).paths) == 4


def test_a_foreign_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text("[1, 2")
    with pytest.raises(ConfigError, match="not a dataset index"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--count", "0"), "count is 0; expected 1"),
        (("--views", "101"), "views is 101; expected 1..100"),
        (("--size", "8"), "size is 8; expected 16..2048"),
        (("--samples", "5"), "samples is 5; expected 1, 4, 9 or 16"),
        (("--margin", "0.9"), r"margin is 0.9; expected 1.0..2.0"),
        (("--first-seed", "-3"), "first-seed is -3"),
        (("--first-seed", "99999999"), r"first-seed is 99999999; expected 0\.\.99999998"),  # two identities
        (("--workers", "0"), "workers is 0; expected 1..256"),
    ],
)
def test_bad_options_are_one_clear_error(tmp_path: Path, option: tuple[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(tmp_path / "out", *option)
    assert not (tmp_path / "out").exists()


def test_a_second_process_is_kept_out_if_there_is_work(folder: Path) -> None:
    with locked(folder):
        assert list(render_set(folder, HeadSet(0, 2, 2, 16, 1, 1.25), 1, "cpu")) == []
        with pytest.raises(OccupiedError, match="another nvb-face is writing here"):
            run(folder, "--count", "3")
    assert sorted(p.name for p in folder.iterdir()) == ["00000000", "00000001", "dataset.json", "sheet.png"]


def test_the_index_is_of_what_is_there(tmp_path: Path) -> None:
    run(tmp_path)
    before = (tmp_path / "dataset.json").read_bytes()
    for lacking in (b"", before.replace(b"00000001/", b"00000007/")):  # of a run that was killed, of a folder that went
        if lacking:
            (tmp_path / "dataset.json").write_bytes(lacking)
        else:
            (tmp_path / "dataset.json").unlink()
        run(tmp_path)
        assert (tmp_path / "dataset.json").read_bytes() == before


def test_an_unwritable_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="choose"):
        run(tmp_path / "file" / "heads")


def test_a_failed_subject_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space"):
        render_subject(tmp_path, HeadSet(0, 1, 1, 16, 1, 1.0), 0, "cpu")
    assert list(tmp_path.iterdir()) == []


def test_bake_writes_into_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVB_FACE_CACHE", str(tmp_path))
    monkeypatch.setattr("training.heads.bake._assemble", lambda _: ({"a": np.zeros(1)}, {}))
    assert main(["--bake"]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["head-basis-v1.safetensors"]


def test_a_killed_run_goes_on_where_it_stopped(folder: Path, tmp_path: Path) -> None:
    """kill -9 in the middle, then again to the end, with two workers: the same images as in one go."""
    arguments = [*SMALL, "--count", "4", "--workers", "2", "--out", str(tmp_path)]
    command = [sys.executable, "-c", COMMAND, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("[0-9]" * 8)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    heads = HeadSet(0, 4, 2, 16, 1, 1.25)
    assert len(pending(tmp_path, heads)) < 4
    assert main(arguments) == 0
    assert pending(tmp_path, heads) == []
    names = json.loads((tmp_path / "dataset.json").read_text())["labels"]
    assert len(names) == 8
    killed = pixels(tmp_path)
    for name, image in pixels(folder).items():
        np.testing.assert_array_equal(killed[name], image)
