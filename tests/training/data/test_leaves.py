from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nvb_core.errors import ConfigError, OccupiedError
from nvb_core.staging import locked
from training.batches import sample_restoration_batch
from training.data import FaceFolder, leaves, read_index
from training.data.cli import main
from training.data.leaves import draw_leaves


def run(out: Path, *more: str) -> None:
    assert main(["leaves", "--out", str(out), "--count", "3", "--size", "16", *more]) == 0


def draw(seed: int, size: int = 32) -> np.ndarray:
    return np.asarray(draw_leaves(np.random.default_rng(seed), size))


def test_a_seed_is_a_picture() -> None:
    assert draw(1).shape == (32, 32, 3)
    np.testing.assert_array_equal(draw(1), draw(1))
    assert (draw(1) != draw(2)).mean() > 0.9


def test_pictures_are_of_all_kinds() -> None:
    """Dull and colourful, dark and light, smooth and detailed."""
    pictures = np.stack([draw(seed) for seed in range(60)]) / 255
    colourful = np.ptp(pictures, axis=3).mean((1, 2))
    assert colourful.min() < 0.03
    assert colourful.max() > 0.3
    brightness = pictures.mean((1, 2, 3))
    assert brightness.min() < 0.25
    assert brightness.max() > 0.7
    detail = np.abs(np.diff(pictures, axis=1)).mean((1, 2, 3))
    assert detail.max() > 5 * detail.min()


def test_the_folder_is_one_for_step_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path)
    assert capsys.readouterr().out == f"wrote {tmp_path}: 3 pictures, 3 of them now\n"
    index = read_index(tmp_path)
    assert index.paths == tuple(f"0000000{i}.png" for i in range(3))
    assert not index.has_camera.any()
    folder = FaceFolder.load((tmp_path,), 16, show_progress=False, weights=(), split="all", in_memory="auto")
    batch = sample_restoration_batch(folder, 4, np.random.default_rng(0))
    assert batch.target.shape == (4, 3, 16, 16)
    assert not batch.has_camera.any()
    assert torch.isfinite(batch.lq).all()


def test_a_run_goes_on_and_more_can_be_added(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path)
    stamp = (tmp_path / "00000001.png").stat().st_mtime_ns
    (tmp_path / "00000002.png").unlink()
    run(tmp_path, "--count", "4")
    assert capsys.readouterr().out.endswith("4 pictures, 2 of them now\n")
    assert (tmp_path / "00000001.png").stat().st_mtime_ns == stamp
    run(tmp_path, "--first-seed", "7")
    assert len(read_index(tmp_path).paths) == 7


def test_other_pictures_are_left_alone(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(ConfigError, match=r"already holds other pictures \(.*'size': 16.*, not .*'size': 32.*\)"):
        run(tmp_path, "--size", "32")
    (tmp_path / "leaves.json").write_text("[")
    with pytest.raises(ConfigError, match=r"leaves\.json can't be read \(.*\); choose another --out"):
        run(tmp_path)
    (tmp_path / "leaves.json").unlink()
    with pytest.raises(ConfigError, match=r"already holds pictures that aren't dead leaves; choose another --out"):
        run(tmp_path)


def test_an_interrupted_run_goes_on_only_with_its_own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(rng: np.random.Generator, size: int) -> Image.Image:
        if (tmp_path / "00000001.png").exists():
            raise KeyboardInterrupt
        return draw_leaves(rng, size)

    monkeypatch.setattr(leaves, "draw_leaves", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="already holds other pictures"):
        run(tmp_path, "--size", "32")
    run(tmp_path)
    assert {np.asarray(Image.open(path)).shape for path in tmp_path.glob("*.png")} == {(20, 20, 3)}


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(OccupiedError):
        run(tmp_path)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--size", "8"), r"--size is 8, must be in 16-2048"),
        (("--margin", "0.5"), r"--margin is 0\.5, must be in 1-2"),
        (("--count", "0"), r"--count 0 from --first-seed 0: seeds must be in 0-99999999"),
        (("--first-seed", "99999999"), r"seeds must be in 0-99999999"),
    ],
)
def test_bad_options_are_one_clear_error(tmp_path: Path, option: tuple[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, *option)
    assert not list(tmp_path.iterdir())
