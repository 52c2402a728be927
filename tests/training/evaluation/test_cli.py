from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from nvb_core.checkpoint import save_model
from nvb_core.cli.worker import Worker
from nvb_core.config import tiny_config
from nvb_core.errors import CheckpointError, ConfigError, ImageError, OutputError
from nvb_core.fit import FIT_STEPS
from nvb_core.model import NVBModel
from nvb_core.sampling import SamplingOptions
from training.evaluation import benchmark, perceptual, plots, run
from training.evaluation.benchmark import Benchmark, BenchmarkSettings
from training.evaluation.cli import Options, main
from training.evaluation.measure import MeasureSettings
from training.evaluation.methods import Method
from training.evaluation.plan import Plan
from training.evaluation.run import Evaluation
from training.evaluation.scores import IdentityScores
from training.evaluation.sheet import CAPTION_PX, GAP_PX


def arguments(weights: Path, heads: Benchmark, out: Path, *more: str) -> list[str]:
    fixed = {
        "weights": weights,
        "benchmark": heads.folder.parent,
        "out": out,
        "identities": 2,
        "views": heads.settings.views,
        "steps": 2,
        "workers": 1,
        "device": "cpu",
    }
    return [part for key, value in fixed.items() for part in (f"--{key}", str(value))] + list(more)


def forbid(*_: Any, **__: Any) -> None:
    raise AssertionError("this was to be reused")


def figures(out: Path) -> dict[str, float]:
    report = json.loads((out / "report.json").read_text())
    return {key: figure["value"] for key, figure in report["figures"].items()}


@pytest.mark.parametrize(("asked", "taken"), [(0, 3), (7, 7)])
def test_steps_are_the_models_where_none_are_asked_for(weights: Path, tmp_path: Path, asked: int, taken: int) -> None:
    plan = Plan.make(Options(weights=weights, out=tmp_path, steps=asked), torch.device("cpu"))
    assert plan.evaluations[1].settings.sampling == SamplingOptions(taken, fit_steps=FIT_STEPS)


def test_a_missing_package_is_found_out_before_the_measuring(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"matplotlib; pip install 'nvb-face\[train\]'"):
        Plan.make(Options(weights=weights, out=tmp_path), torch.device("cpu"))


def test_evaluation_end_to_end(
    weights: Path,
    heads: Benchmark,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(perceptual, "find_spec", lambda name: None)
    assert main(arguments(weights, heads, out)) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "bars met" in printed
    assert "nvb-face[metrics]" in printed  # and not taken for markup
    first = figures(out)
    assert first["true_pair_psnr"] > 25 > first["psnr"]
    assert {path.name for path in out.glob("*.*")} == {"report.json", "report.md", "sheet.png", "yaw.png"}
    [results] = out.glob("results-*")
    names = {f"{seed:08d}{suffix}" for seed in (1_000_000, 1_000_001) for suffix in (".json", ".png")}
    assert {path.name for path in results.iterdir()} == names | {"settings.json"}

    monkeypatch.setattr(benchmark, "render_face", forbid)
    with monkeypatch.context() as patch:
        patch.setattr(run, "generate", forbid)
        assert main(arguments(weights, heads, out)) == 0
    assert figures(out) == first

    other = tmp_path / "other.safetensors"
    torch.manual_seed(1)
    save_model(NVBModel(tiny_config()), other, {})
    assert main(arguments(other, heads, out)) == 0
    assert figures(out)["psnr"] != first["psnr"]
    assert figures(out)["copy_psnr"] == first["copy_psnr"]
    assert len(list(out.glob("results-*"))) == 2


def test_interrupted_evaluation_goes_on(
    weights: Path, heads: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = run.generate
    measured: list[int] = []

    def interrupted(model: Any, faces: Any, settings: Any) -> Any:
        if measured:
            raise KeyboardInterrupt
        measured.extend(face.seed for face in faces)
        return genuine(model, faces, settings)

    with monkeypatch.context() as patch:
        patch.setattr(run, "generate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            main(arguments(weights, heads, tmp_path, "--batch", "1"))
    assert measured == [1_000_000]
    assert not (tmp_path / "report.json").exists()

    def watched(model: Any, faces: Any, settings: Any) -> Any:
        measured.extend(face.seed for face in faces)
        return genuine(model, faces, settings)

    monkeypatch.setattr(run, "generate", watched)
    main(arguments(weights, heads, tmp_path / "whole"))
    assert measured == [1_000_000, 1_000_000, 1_000_001]
    main(arguments(weights, heads, tmp_path))
    assert measured[3:] == [1_000_001]
    [strip] = tmp_path.glob("results-*/01000000.png")
    strip.unlink()
    main(arguments(weights, heads, tmp_path))
    assert measured[4:] == [1_000_000]
    assert strip.is_file()
    assert figures(tmp_path) == pytest.approx(figures(tmp_path / "whole"), abs=1e-3)


def test_other_systems_stand_beside_the_model(weights: Path, heads: Benchmark, tmp_path: Path) -> None:
    seeds = ("01000000", "01000001")
    for seed in seeds:
        (tmp_path / "grey" / seed).mkdir(parents=True)
        for path in (heads.folder / seed).glob("*.png"):
            Image.new("RGB", (heads.settings.image_size,) * 2, (128, 128, 128)).save(
                tmp_path / "grey" / seed / path.name
            )
    methods = ("--method", f"true={heads.folder}", "--method", f"grey={tmp_path / 'grey'}")
    assert main(arguments(weights, heads, tmp_path / "out", *methods)) == 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    true, grey = (report["methods"][name]["figures"] for name in ("true", "grey"))
    assert true["psnr"]["value"] == true["restored_psnr"]["value"] == 100
    assert true["pair_psnr"]["value"] == report["figures"]["true_pair_psnr"]["value"]
    assert true["yaw_error"]["value"] is None
    assert grey["psnr"]["value"] < 20
    assert grey["copy_psnr"]["value"] == report["figures"]["copy_psnr"]["value"]

    size = heads.settings.image_size
    with Image.open(tmp_path / "out/side_by_side.png") as sheet:
        rows = 4  # truth, the model, true, grey
        assert sheet.size == (size + GAP_PX + 3 * size, 2 * (rows * (size + CAPTION_PX) + GAP_PX))
        left = size + GAP_PX
        lines = [
            sheet.crop((left, top, sheet.width, top + size))
            for top in (CAPTION_PX + row * (size + CAPTION_PX) for row in range(rows))
        ]
    truth, own, same, flat = ((torch.tensor(list(line.tobytes())) - 128).abs() for line in lines)
    assert torch.equal(truth, same)
    assert not torch.equal(truth, own)
    assert int(flat.max()) == 0

    broken = tmp_path / "grey/01000001/view_01.png"
    Image.new("RGB", (20, 30)).save(broken)
    with pytest.raises(ImageError, match=r"01000001/view_01\.png: 20×30 pixels, .* 32×32"):
        main(arguments(weights, heads, tmp_path / "out", *methods))
    broken.unlink()
    with pytest.raises(ImageError, match=r"01000001/view_01\.png: missing picture of method grey"):
        main(arguments(weights, heads, tmp_path / "fresh", *methods))
    assert not (tmp_path / "fresh").exists()


def test_several_levels(weights: Path, heads: Benchmark, tmp_path: Path) -> None:
    assert main(arguments(weights, heads, tmp_path / "both", "--level", "0", "2")) == 0
    levels = {level: figures(tmp_path / f"both/level{level}") for level in (0, 2)}
    assert levels[0]["degraded_psnr"] == 100 > levels[2]["degraded_psnr"]
    assert main(arguments(weights, heads, tmp_path / "one", "--level", "2")) == 0
    assert figures(tmp_path / "one") == levels[2]
    all_levels = json.loads((tmp_path / "both/report.json").read_text())["levels"]
    assert {int(level): item["figures"]["psnr"]["value"] for level, item in all_levels.items()} == {
        level: values["psnr"] for level, values in levels.items()
    }
    page = (tmp_path / "both/report.md").read_text()
    assert "## Level 0" in page
    assert "## Level 2" in page


def test_launched_processes_share_the_heads(weights: Path, heads: Benchmark, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    more = ("--method", f"true={heads.folder}", "--steps", "1", "--batch", "1", "--device", "auto")
    options = arguments(weights, heads, tmp_path / "shared", *more)
    done = subprocess.run(
        [*launcher, "-m", "nvb_core.cli", "eval", *options],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("bars met") == 1
    assert main(arguments(weights, heads, tmp_path / "alone", "--steps", "1")) == 0
    shared, alone = figures(tmp_path / "shared"), figures(tmp_path / "alone")
    known = [key for key, value in alone.items() if value is not None]
    assert [key for key, value in shared.items() if value is not None] == known
    assert [shared[key] for key in known] == pytest.approx([alone[key] for key in known], rel=1e-4, abs=1e-4)
    theirs = json.loads((tmp_path / "shared/report.json").read_text())["methods"]["true"]
    assert [item["seed"] for item in theirs["identities"]] == [1_000_000, 1_000_001]


def test_a_process_that_is_ahead_leaves_others_their_share(weights: Path, heads: Benchmark, tmp_path: Path) -> None:
    """Whichever comes to a level first, and however far it gets before the other looks what is missing."""
    views, folder = heads.settings.views, heads.folder.parent
    options = Options(weights=weights, benchmark=folder, out=tmp_path, identities=2, views=views, steps=1, level=(0, 2))
    plan = Plan.make(options, torch.device("cpu"))
    for level, order in ((0, (0, 1)), (2, (1, 0))):
        for index in order:
            plan.measure(level, Worker(index, 2, torch.device("cpu")))
        assert plan.evaluations[level].missing(plan.seeds) == []


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Seeds of which another system's pictures were measured."""
    seeds: list[int] = []
    genuine = Evaluation.score_method

    def watched(self: Evaluation, method: Method, seed: int) -> IdentityScores:
        seeds.append(seed)
        return genuine(self, method, seed)

    monkeypatch.setattr(Evaluation, "score_method", watched)
    return seeds


def measure_method(options: Options, index: int = 0, count: int = 1) -> tuple[IdentityScores, ...]:
    """A process's share of the only level; the scores, if it is the last one."""
    plan, [level] = Plan.make(options, torch.device("cpu")), options.levels
    plan.measure_methods(level, Worker(index, count, torch.device("cpu")))
    [method] = plan.methods(level)
    return plan.evaluations[level].method_scores(method, plan.seeds) if index == 0 else ()


def test_scores_of_other_systems_are_shared_and_kept(
    weights: Path, heads: Benchmark, tmp_path: Path, scored: list[int]
) -> None:
    theirs, fixed = tmp_path / "theirs", {"identities": 2, "views": heads.settings.views, "out": tmp_path / "out"}
    shutil.copytree(heads.folder, theirs)
    options = Options(weights=weights, benchmark=heads.folder.parent, method=(f"a={theirs}",), **fixed)
    measure_method(options, 1, 2)
    assert scored == [1_000_001]
    first = measure_method(options, 0, 2)
    assert scored == [1_000_001, 1_000_000]
    again = measure_method(replace(options, method=(f"b={theirs}",), steps=7, seed=1, true_camera=True))
    assert len(scored) == 2  # whatever the name, and however the model is used
    assert [item.machine for item in again] == ["b", "b"]
    assert [replace(item, machine="a") for item in again] == list(first)

    shutil.copy(theirs / "01000001/view_00.png", theirs / "01000001/view_01.png")
    changed = measure_method(options)
    assert scored[2:] == [1_000_001]
    assert changed[0] == first[0]
    assert changed[1].views[1].psnr < first[1].views[1].psnr == 100
    assert len(list((tmp_path / "out").glob("methods-*"))) == 1
    measure_method(replace(options, level=(2,)))
    assert scored[3:] == [1_000_000, 1_000_001]


@pytest.mark.parametrize("text", ["grey", "grey=", "=folder", "a b=folder"])
def test_bad_method(text: str) -> None:
    with pytest.raises(ConfigError, match="must be NAME=FOLDER"):
        Options(method=(text,))


def test_methods_of_one_name() -> None:
    with pytest.raises(ConfigError, match="two methods have one name among a, b, a"):
        Options(method=("a=x", "b=x", "a=y"))


@pytest.mark.parametrize(("name", "holder"), [("truth", "the true views'"), ("some.safetensors", "the model's")])
def test_names_that_are_taken(name: str, holder: str) -> None:
    with pytest.raises(ConfigError, match=f"--method: the name {name} is {holder} in tables"):
        Options(weights=Path("models/some.safetensors"), method=("a=x", f"{name}=y"))


@pytest.mark.parametrize(
    "change",
    [
        {"settings": MeasureSettings(2, SamplingOptions(), False)},
        {"settings": MeasureSettings(1, SamplingOptions(steps=20), False)},
        {"settings": MeasureSettings(1, SamplingOptions(seed=1), False)},
        {"settings": MeasureSettings(1, SamplingOptions(), True)},
        {"weights_sha256": "cd"},
        {"dtype": "bfloat16"},
        {"benchmark": Benchmark(Path("heads"), BenchmarkSettings(9, 128))},
    ],
)
def test_results_of_other_settings_are_kept_apart(change: dict[str, Any]) -> None:
    heads = Benchmark(Path("heads"), BenchmarkSettings(8, 128))
    usual = Evaluation(heads, MeasureSettings(1, SamplingOptions(), False), "ab", "float32", Path("out"))
    assert replace(usual, **change).folder != usual.folder
    chunked = MeasureSettings(1, SamplingOptions(views_per_chunk=2), False)
    assert replace(usual, settings=chunked).folder == usual.folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first_seed": 999_999}, "--first-seed is 999999.* --allow-training-seeds"),
        ({"first_seed": -1, "allow_training_seeds": True}, "--first-seed is -1, must be in 0–"),
        ({"identities": 0}, "--identities is 0, must be in 1–100000"),
        ({"batch": 0}, "--batch is 0"),
        ({"workers": 0}, "--workers is 0"),
    ],
)
def test_bad_options(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Options(**change)


def test_training_seeds_on_request() -> None:
    assert Options(first_seed=7, identities=3, allow_training_seeds=True).seeds == range(7, 10)


def test_output_that_cannot_be_written(weights: Path, heads: Benchmark, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file: can't be written .* --out"):
        main(arguments(weights, heads, tmp_path / "file"))


def test_missing_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        main(["--weights", str(tmp_path / "none.safetensors"), "--out", str(tmp_path / "out")])
    assert list(tmp_path.iterdir()) == []
