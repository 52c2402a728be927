from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from nvb_core import cli
from nvb_core.cli.degrade import GRID_NAME, GRID_PICTURES, main, read_record
from nvb_core.degradation import Degradation, degrade
from nvb_core.errors import ConfigError, OccupiedError, OutputError
from nvb_core.images import load_image, to_uint8
from nvb_core.provenance import GRID_KEY, PNG_KEY

SIZE = (40, 56)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed, name in enumerate(("anna.png", "bert.png", "carl.png")):
        smooth = np.random.default_rng(seed).integers(256, size=(5, 7, 3), dtype=np.uint8)
        Image.fromarray(smooth).resize(SIZE[::-1], Image.Resampling.BICUBIC).save(folder / name)
    return folder


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def recorded(path: Path) -> dict[str, Any]:
    record = read_record(path)
    assert record is not None
    return record


def test_each_photo_gets_its_own_degradation_as_recorded(photos: Path, tmp_path: Path) -> None:
    assert run(photos, "--out", tmp_path / "out") == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["anna.png", "bert.png", "carl.png"]
    drawn = []
    for photo in sorted(photos.iterdir()):
        record = recorded(tmp_path / "out" / photo.name)
        source = load_image(photo)
        assert record["source"] == photo.name
        assert record["source_sha256"] == source.sha256
        degradation = Degradation.from_dict(record["degradation"])
        expected = to_uint8(degrade(source.pixels[None], [degradation])[0])
        assert np.array_equal(pixels(tmp_path / "out" / photo.name), expected)
        assert not np.array_equal(expected, pixels(photo))
        drawn.append(degradation)
    assert len({d.noise_seed for d in drawn}) == 3


def test_a_photo_is_degraded_alike_in_any_company(photos: Path, tmp_path: Path) -> None:
    run(photos, "--out", tmp_path / "all", "--seed", 3)
    run(photos / "bert.png", "--out", tmp_path / "alone", "--seed", 3)
    run(photos / "bert.png", "--out", tmp_path / "other", "--seed", 4)
    alone = pixels(tmp_path / "alone" / "bert.png")
    assert np.array_equal(pixels(tmp_path / "all" / "bert.png"), alone)
    assert not np.array_equal(pixels(tmp_path / "other" / "bert.png"), alone)


def test_level0_changes_nothing(photos: Path, tmp_path: Path) -> None:
    run(photos, "--out", tmp_path / "out", "--level", "level0")
    for photo in photos.iterdir():
        assert np.array_equal(pixels(tmp_path / "out" / photo.name), pixels(photo))


def test_levels_differ_in_strength(photos: Path, tmp_path: Path) -> None:
    errors = {}
    for level in ("level1", "level2"):
        run(photos, "--out", tmp_path / level, "--level", level, "--variants", 4)
        errors[level] = np.mean(
            [
                np.square(pixels(path).astype(float) - pixels(photos / f"{path.stem[:-4]}.png")).mean()
                for path in (tmp_path / level).iterdir()
            ]
        )
    assert 0 < 1.5 * errors["level1"] < errors["level2"]


def test_variants_differ(photos: Path, tmp_path: Path) -> None:
    run(photos / "anna.png", "--out", tmp_path / "out", "--variants", 3)
    files = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in files] == ["anna_000.png", "anna_001.png", "anna_002.png"]
    assert len({pixels(path).tobytes() for path in files}) == 3
    assert [recorded(path)["variant"] for path in files] == [0, 1, 2]


def test_what_is_finished_is_skipped_and_other_settings_are_not(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, "--out", out)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / "bert.png").write_bytes((out / "bert.png").read_bytes()[:-200])  # cut off
    assert run(photos, "--out", out) == 2
    (out / "bert.png").unlink()
    run(photos, "--out", out)
    assert (out / "anna.png").stat().st_mtime_ns == before["anna.png"]
    assert read_record(out / "bert.png") is not None
    run(photos, "--out", out, "--level", "level1")
    assert recorded(out / "anna.png")["level"] == "level1"


def test_results_of_another_photo_are_replaced_only_if_told_so(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, more = tmp_path / "out", tmp_path / "more"
    run(photos / "anna.png", "--out", out)
    before = (out / "anna.png").read_bytes()
    more.mkdir()
    (photos / "bert.png").rename(more / "anna.png")
    (photos / "carl.png").rename(more / "carl.png")
    assert run(more, "--out", out, "--level", "level1") == 2
    expected = f"{more / 'anna.png'}: {out / 'anna.png'} was made from another photo, anna.png; choose another --out"
    assert expected in capsys.readouterr().err
    assert (out / "anna.png").read_bytes() == before
    assert recorded(out / "carl.png")["level"] == "level1"
    assert run(more, "--out", out, "--overwrite") == 0
    assert recorded(out / "anna.png")["source_sha256"] == load_image(more / "anna.png").sha256


def test_overwrite_does_again_what_is_finished(photos: Path, tmp_path: Path) -> None:
    stamps = []
    for options in ((), ("--overwrite",)):
        run(photos / "anna.png", "--out", tmp_path / "out", *options)
        stamps.append((tmp_path / "out" / "anna.png").stat().st_mtime_ns)
    assert stamps[0] < stamps[1]


def test_a_photo_is_never_overwritten_and_does_not_stop_the_rest(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, before = tmp_path / "out", (photos / "anna.png").read_bytes()
    out.mkdir()
    (out / "anna.png").write_bytes(before)
    assert run(photos, "--out", out, "--overwrite") == 2
    assert "anna.png: exists and isn't a picture of nvb-face degrade" in capsys.readouterr().err
    assert (out / "anna.png").read_bytes() == before
    assert sorted(path.name for path in out.iterdir()) == ["anna.png", "bert.png", "carl.png"]


@pytest.mark.parametrize(("variants", "columns"), [(1, 2), (3, 4), (9, 8)])
def test_grid_shows_photos_beside_their_variants(photos: Path, tmp_path: Path, variants: int, columns: int) -> None:
    run(photos, "--out", tmp_path / "out", "--variants", variants, "--grid")
    run(photos / "anna.png", "--out", tmp_path / "one", "--variants", variants, "--grid")
    three, one = (pixels(tmp_path / name / GRID_NAME) for name in ("out", "one"))
    assert three.shape[1] == one.shape[1]
    assert three.shape[0] > 2 * one.shape[0]
    assert 200 * columns < one.shape[1] < 300 * columns
    assert columns <= GRID_PICTURES


def test_a_photo_called_grid_and_the_grid_keep_out_of_each_others_way(photos: Path, tmp_path: Path) -> None:
    (photos / "anna.png").rename(photos / "Grid.png")
    stamps = []
    for _ in range(2):
        assert run(photos, "--out", tmp_path / "out", "--grid") == 0
        stamps.append((tmp_path / "out" / "Grid-2.png").stat().st_mtime_ns)
    assert stamps[0] == stamps[1]
    assert recorded(tmp_path / "out" / "Grid-2.png")["source"] == "Grid.png"
    assert read_record(tmp_path / "out" / GRID_NAME, GRID_KEY) == {"level": "level2", "seed": 0, "variants": 1}


def test_somebody_elses_grid_is_never_overwritten(photos: Path, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / GRID_NAME)
    before = (tmp_path / GRID_NAME).read_bytes()
    with pytest.raises(OccupiedError, match=r"grid\.png: exists and isn't a picture of nvb-face degrade"):
        run(photos, "--out", tmp_path, "--grid")
    assert (tmp_path / GRID_NAME).read_bytes() == before
    assert not (tmp_path / "anna.png").exists()


def test_views_beside_the_photos_are_no_photos(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marked = PngInfo()
    marked.add_text(PNG_KEY, "{}")
    Image.new("RGB", (8, 8)).save(photos / "sheet.png", pnginfo=marked)
    out = tmp_path / "out"
    assert run(photos, "--out", out) == 0
    assert not (out / "sheet.png").exists()
    assert f"{out}: 3 photos degraded" in capsys.readouterr().err


def test_results_beside_the_photos_are_not_degraded_again(photos: Path, tmp_path: Path) -> None:
    for photo in photos.iterdir():
        Image.open(photo).save(photo.with_suffix(".jpg"))
        photo.unlink()
    found = []
    for _ in range(2):
        assert run(photos, "--out", photos, "--grid") == 0
        found.append({path.name: path.stat().st_mtime_ns for path in photos.iterdir() if path.name != GRID_NAME})
    assert len(found[0]) == 6
    assert found[0] == found[1]
    assert run(photos / "anna.png", "--out", tmp_path / "twice") == 0


def test_a_bad_photo_does_not_stop_the_rest(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "ben.jpg").write_bytes(b"not a picture")
    assert run(photos, "--out", tmp_path / "out", "--grid") == 2
    assert {"anna.png", "bert.png", "carl.png", GRID_NAME} == {p.name for p in (tmp_path / "out").iterdir()}
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "ben.jpg: not a readable image" in lines[0]
    assert lines[1].startswith("nvb-face: 1 of 4 photos failed:")


@pytest.mark.parametrize("error", [RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError()])
def test_a_photo_too_large_for_memory_does_not_stop_the_rest(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    Image.new("RGB", (90, 80)).save(photos / "ben.png")

    def too_large(images: torch.Tensor, degradations: Sequence[Degradation]) -> torch.Tensor:
        if images.shape[-1] == 90:
            raise error
        return degrade(images, degradations)

    monkeypatch.setattr("nvb_core.cli.degrade.degrade", too_large)
    assert run(photos, "--out", tmp_path / "out") == 2
    assert "ben.png: not enough memory to degrade it" in capsys.readouterr().err
    assert {"anna.png", "bert.png", "carl.png"} == {p.name for p in (tmp_path / "out").iterdir()}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere all file names are Unicode")
def test_a_name_that_is_not_utf8_does_not_stop_the_run(photos: Path, tmp_path: Path) -> None:
    os.rename(photos / "bert.png", os.fsencode(photos) + b"/caf\xe9.png")
    assert run(photos, "--out", tmp_path / "out") == 0
    assert recorded(Path(os.fsdecode(os.fsencode(tmp_path / "out") + b"/caf\xe9.png")))["source"] == "caf?.png"
    assert {"anna.png", "carl.png"} < set(os.listdir(tmp_path / "out"))


def test_names_as_long_as_they_may_be_and_longer(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "carl.png").rename(photos / f"{'c' * 251}.png")
    assert run(photos, photos / f"{'d' * 252}.png", "--out", tmp_path / "out", "--variants", 2) == 2
    assert [path.name[0] for path in sorted((tmp_path / "out").iterdir())] == list("aabbcc")
    assert "d.png: cannot be read (File name too long)" in capsys.readouterr().err


def test_out_that_cannot_be_reached_is_one_error(photos: Path) -> None:
    with pytest.raises(OutputError, match="File name too long"):
        run(photos, "--out", photos / ("x" * 256) / "out")


@pytest.mark.parametrize(("option", "value"), [("--seed", "-1"), ("--variants", "0"), ("--variants", "1001")])
def test_wrong_numbers_are_refused(photos: Path, tmp_path: Path, option: str, value: str) -> None:
    with pytest.raises(ConfigError, match=option):
        run(photos, "--out", tmp_path / "out", f"{option}={value}")
    assert not (tmp_path / "out").exists()


def test_no_photos_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["degrade", "--out", str(tmp_path)]) == 2
    assert "no photos given" in capsys.readouterr().err


def test_records_of_other_files(tmp_path: Path) -> None:
    path = tmp_path / "plain.png"
    assert read_record(path) is None
    Image.new("RGB", (4, 4)).save(path)
    assert read_record(path) is None
    path.write_text(json.dumps({}))
    assert read_record(path) is None


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_gives_the_same_pictures(photos: Path, tmp_path: Path) -> None:
    for device in ("cpu", "cuda"):
        run(photos, "--out", tmp_path / device, "--device", device)
    for photo in photos.iterdir():
        first, second = (pixels(tmp_path / device / photo.name).astype(float) for device in ("cpu", "cuda"))
        assert np.square(first - second).mean() < 255**2 * 10**-4  # 40 dB
