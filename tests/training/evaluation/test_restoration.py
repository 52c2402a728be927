from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nvb_core.align import CropBox, crop_image
from nvb_core.errors import ConfigError, ImageError
from nvb_core.images import load_image
from nvb_core.model import NVBModel
from nvb_core.pipeline import restore
from nvb_core.sampling import SamplingOptions
from training.evaluation import cli, inputs
from training.evaluation.measure import MeasureSettings
from training.evaluation.metrics import psnr
from training.evaluation.restoration import PairFolder, RestorationEvaluation, score_pair, whole_picture

SIZE = 32


def make_pairs(folder: Path, count: int = 2, side: int = 64) -> None:
    """Clean pictures of soft noise, and noisy ones of half their size."""
    rng = np.random.default_rng(0)
    for part in ("lq", "hq"):
        (folder / part).mkdir(parents=True)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(256, size=(6, 6, 3), dtype=np.uint8))
        clean = coarse.resize((side, side), Image.Resampling.BICUBIC)
        clean.save(folder / f"hq/{i:05d}.png")
        half = np.asarray(clean.resize((side // 2, side // 2))).astype(int)
        noisy = (half + rng.integers(-40, 41, size=half.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"lq/{i:05d}.png")


def test_whole_pictures_of_any_size(tmp_path: Path) -> None:
    make_pairs(tmp_path)
    pairs = PairFolder(tmp_path, SIZE)
    assert pairs.names == {0: "00000", 1: "00001"}
    pair = pairs.load(1)
    assert torch.equal(pair.degraded, load_image(tmp_path / "lq/00001.png").pixels)  # 32 px as it is
    clean = load_image(tmp_path / "hq/00001.png").pixels
    assert torch.equal(pair.clean, crop_image(clean, CropBox(32, 32, 64), SIZE))
    torch.testing.assert_close(pair.clean, torch.nn.functional.avg_pool2d(clean, 2), atol=0.05, rtol=0)


def test_scores_of_a_pair(tmp_path: Path) -> None:
    make_pairs(tmp_path)
    pair = PairFolder(tmp_path, SIZE).load(0)
    perfect = score_pair(pair, pair.clean, "here")
    assert (perfect.restored_psnr, perfect.restored_ssim) == (100, pytest.approx(1))
    assert perfect.restored_identity == pytest.approx(1, abs=1e-5)
    assert perfect.degraded_psnr == pytest.approx(float(psnr(pair.degraded[None], pair.clean[None])))
    assert perfect.degraded_psnr < 30
    untouched = score_pair(pair, pair.degraded, "here")
    assert untouched.restored_psnr == untouched.degraded_psnr == perfect.degraded_psnr
    assert untouched.restored_ssim == untouched.degraded_ssim < 0.95
    assert untouched.restored_identity == untouched.degraded_identity
    assert (perfect.views, perfect.camera, perfect.niqe) == ((), None, None)


def test_a_batch_restores_as_each_alone(model: NVBModel, tmp_path: Path) -> None:
    make_pairs(tmp_path / "set", 3)
    pairs, sampling = PairFolder(tmp_path / "set", SIZE), SamplingOptions(steps=2, seed=3)
    evaluation = RestorationEvaluation(pairs, MeasureSettings(1, sampling, False), "ab", "float32", tmp_path)
    items = list(evaluation.draw(model, [0, 1, 2], "here"))
    for seed, item in enumerate(items):
        pair = pairs.load(seed)
        alone = restore(model, pair.degraded[None], sampling)[0]
        assert item.scores.seed == seed
        assert item.scores.restored_psnr == pytest.approx(float(psnr(alone[None], pair.clean[None])), abs=1e-2)
        assert item.strip.size == (3 * SIZE, SIZE)
        assert item.scores.seconds["restoration"] > 0


def test_evaluation_of_pairs(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_pairs(tmp_path / "celeba")
    methods = ["--method", f"true={tmp_path / 'celeba/hq'}", "--method", f"none={tmp_path / 'celeba/lq'}"]
    out = tmp_path / "out"
    arguments = ["--weights", str(weights), "--data", str(tmp_path / "celeba"), "--steps", "1", "--device", "cpu"]
    assert cli.main([*arguments, *methods, "--out", str(out)]) == 0
    assert "2 subjects of celeba" in capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    expected = {"restored_psnr", "restored_gain", "degraded_psnr", "restored_ssim", "degraded_ssim"}
    assert set(report["figures"]) == expected | {"restored_identity", "degraded_identity"}
    true, none = (report["methods"][name]["figures"] for name in ("true", "none"))
    assert true["restored_psnr"]["value"] == 100
    assert none["restored_gain"]["value"] == 0
    assert report["names"] == {"0": "00000", "1": "00001"}
    page = (out / "report.md").read_text()
    assert "2 subjects of celeba, restored. Settings: data celeba, image_size 32" in page
    assert "copying the input |" not in page
    assert "yaw.png" not in page
    assert "Warped" not in page
    assert "![Degraded, restored and clean pictures, the first 12](sheet.png)" in page
    assert not (out / "yaw.png").exists()
    with Image.open(out / "side_by_side.png") as sheet:
        assert sheet.width == 5 * SIZE
    [results] = out.glob("results-*")
    assert cli.main(["--compare", str(results), f"{out}:none", "--out", str(tmp_path / "compared")]) == 0
    compared = json.loads((tmp_path / "compared/comparison.json").read_text())
    assert {item["key"] for item in compared["differences"]} == expected | {"restored_identity", "degraded_identity"}


def test_bad_pairs(weights: Path, tmp_path: Path) -> None:
    make_pairs(tmp_path)
    arguments = ["--weights", str(weights), "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--device", "cpu"]
    for more, message in (
        (["--level", "1"], "--level mean nothing for pairs"),
        (["--views", "3", "--split", "all"], "--views and --split mean nothing"),
        (["--true-camera"], "--true-camera: .* have no cameras"),
        (["--set", "heads-v1"], "--data takes the place of synthetic heads"),
    ):
        with pytest.raises(ConfigError, match=message):
            cli.main([*arguments, *more])
    with pytest.raises(ConfigError, match="lq/ as it is"):
        inputs.main(["--data", str(tmp_path), "--out", str(tmp_path / "in")])
    with pytest.raises(ImageError, match=r"none/00000\.png: missing picture of method theirs"):
        cli.main([*arguments, "--method", f"theirs={tmp_path / 'none'}"])
    Image.new("RGB", (20, 30)).save(tmp_path / "lq/00000.png")
    with pytest.raises(ImageError, match="20×30 pixels, must be square"):
        PairFolder(tmp_path, SIZE).load(0)
    (tmp_path / "hq/00001.png").unlink()
    with pytest.raises(ConfigError, match="lq: 00001 has no picture of that name in hq/"):
        PairFolder(tmp_path, SIZE)
    Image.new("RGB", (20, 20)).save(tmp_path / "hq/00000.jpg")
    with pytest.raises(ConfigError, match=r"00000\.jpg and 00000\.png have one name"):
        PairFolder(tmp_path, SIZE)
    with pytest.raises(ConfigError, match="neither a face folder"):
        cli.main([*arguments[:2], "--data", str(tmp_path / "hq")])


def test_key_stands_for_the_pictures(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_pairs(tmp_path / name)
    usual = PairFolder(tmp_path / "a", SIZE)
    assert usual.key == PairFolder(tmp_path / "b", SIZE).key != PairFolder(tmp_path / "a", 16).key
    Image.new("RGB", (SIZE, SIZE), "red").save(tmp_path / "b/lq/00000.bmp")
    Image.new("RGB", (SIZE, SIZE), "red").save(tmp_path / "b/hq/00000.bmp")
    (tmp_path / "b/lq/00000.png").unlink()
    (tmp_path / "b/hq/00000.png").unlink()
    red = PairFolder(tmp_path / "b", SIZE).key
    Image.new("RGB", (SIZE, SIZE), "blue").save(tmp_path / "b/lq/00000.bmp")  # of as many bytes
    assert PairFolder(tmp_path / "b", SIZE).key != red
    evaluation = RestorationEvaluation(usual, MeasureSettings(1, SamplingOptions(), False), "ab", "float32", tmp_path)
    assert evaluation.described["level"] is None
    assert replace(evaluation, dtype="bfloat16").folder != evaluation.folder
    assert whole_picture(tmp_path / "a/hq/00000.png", 64).shape == (3, 64, 64)
