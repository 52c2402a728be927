from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nvb_core.errors import ConfigError
from tests.training.evaluation.test_cli import arguments, forbid
from tests.training.evaluation.test_measure import perfect
from tests.training.evaluation.test_restoration import make_pairs
from training.evaluation import inception, perceptual, run
from training.evaluation.benchmark import Benchmark, BenchmarkFace
from training.evaluation.cli import main
from training.evaluation.extra import ExtraMetrics, MetricOptions
from training.evaluation.inception import inception_features, load_inception
from training.evaluation.measure import score
from training.evaluation.perceptual import load_alexnet, load_dists, load_lpips, load_vgg16
from training.evaluation.scores import read_scores, write_scores

CPU = torch.device("cpu")
SIZE = 32
Make = Callable[..., Path]


@pytest.fixture
def options(make_weights: Make, make_onnx: Make, monkeypatch: pytest.MonkeyPatch) -> MetricOptions:
    """Every file; Inception looks at the smallest picture it can, to be quick."""
    monkeypatch.setattr(inception, "SIZE_PX", 75)
    return MetricOptions(
        **{name: make_weights(name) for name in ("vgg16", "alexnet", "inception")},
        embedding=make_onnx(["n", 3, SIZE, SIZE]),
        embedding_crop="whole",
    )


def test_what_is_missing_is_said() -> None:
    extra = ExtraMetrics.find(MetricOptions(), CPU)
    assert extra.left_out == (
        "LPIPS (VGG16) and DISTS left out: no vgg16-397923af.pth found; give it with --vgg16 FILE, or --allow-download",
        "LPIPS (AlexNet) left out: no alexnet-owt-7be5be79.pth found; give it with --alexnet FILE, or --allow-download",
        "FID and KID left out: no weights-inception-2015-12-05-6726825d.pth found; give it with --inception FILE, "
        "or --allow-download",
        "ID of a network of your own left out: give one with --embedding FILE.onnx",
    )
    assert extra.described == {}
    assert extra.notes == ()


def test_without_torchmetrics(monkeypatch: pytest.MonkeyPatch, make_weights: Make) -> None:
    monkeypatch.setattr(perceptual, "find_spec", lambda name: None)
    extra = ExtraMetrics.find(MetricOptions(), CPU)
    for line in extra.left_out[:2]:
        assert "left out: LPIPS and DISTS need dists_models/weights.pt of the package torchmetrics" in line
    for asked in (MetricOptions(vgg16=make_weights("vgg16")), MetricOptions(allow_download=True)):
        with pytest.raises(ConfigError, match="of the package torchmetrics"):
            ExtraMetrics.find(asked, CPU)


def test_everything_is_measured(
    options: MetricOptions, make_face: Callable[[int], BenchmarkFace], make_weights: Make, tmp_path: Path
) -> None:
    face = make_face(1_000_000)
    generated = perfect([face])
    noise = 0.3 * torch.randn(face.targets.shape, generator=torch.Generator().manual_seed(0))
    views = (face.targets + noise).clamp(-1, 1)
    extra = ExtraMetrics.find(options, CPU)
    restored = views[:1].flip(-1)
    [scores] = score([face], replace(generated, views=views[None], restored=restored), "here", extra)
    vgg16 = load_vgg16(make_weights("vgg16"))
    expected = {
        "lpips_vgg16": load_lpips(vgg16),
        "lpips_alexnet": load_lpips(load_alexnet(make_weights("alexnet"))),
        "dists": load_dists(vgg16),
        "plugged_identity": lambda x, y: torch.cosine_similarity(x.flatten(1), y.flatten(1)),
    }
    for name, metric in expected.items():
        found = torch.tensor([getattr(view, name) for view in scores.views])
        torch.testing.assert_close(found, metric(views, face.targets), atol=1e-5, rtol=1e-4)
        assert found.min() > 0
        of_restoration = torch.tensor([getattr(scores, f"restored_{name}")])
        torch.testing.assert_close(of_restoration, metric(restored, face.image[None]), atol=1e-5, rtol=1e-4)
    network = load_inception(make_weights("inception"))
    assert scores.features is not None
    torch.testing.assert_close(scores.features.generated, inception_features(network, views))
    torch.testing.assert_close(scores.features.true, inception_features(network, face.targets))

    write_scores(scores, tmp_path / "01000000.json")
    again = read_scores(tmp_path / "01000000.json")
    assert again == scores
    assert again.features is not None
    assert torch.equal(again.features.generated, scores.features.generated)
    (tmp_path / "01000000.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"01000000\.json: not an identity's scores .* delete it"):
        read_scores(tmp_path / "01000000.json")


def test_described_and_notes(options: MetricOptions, make_onnx: Make) -> None:
    extra = ExtraMetrics.find(options, CPU)
    assert extra.left_out == ()
    assert set(extra.described) == {"vgg16", "alexnet", "inception", "embedding", "torchmetrics"}
    assert len(extra.described["vgg16"]) == 12
    assert extra.described["embedding"].endswith(" (whole, rgb, (x - 127.5) / 127.5)")
    other = ExtraMetrics.find(replace(options, vgg16=None, embedding_colours="bgr", embedding_mean=0), CPU)
    assert other.described["embedding"].endswith(" (whole, bgr, (x - 0) / 127.5)")
    assert " ".join(other.notes).count("LPIPS: version 0.1") == 1
    text = "\n".join(other.remarks)
    assert "alexnet.pth isn't the published alexnet-owt-7be5be79.pth" in text
    assert "FID and KID may not be comparable" in text
    assert text.count("vgg16") == 2  # in what is left out
    assert text.count("MUSIQ and other learned scores without a true picture left out: ") == 1
    assert text.count("\n") == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding_std": 0.0}, "--embedding-std is 0.0, must be above 0"),
        ({"embedding": Path("none.onnx")}, r"none\.onnx: no such file"),
        ({"inception": Path("none.pth")}, r"none\.pth: no such file"),
    ],
)
def test_bad_options(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ExtraMetrics.find(MetricOptions(**change), CPU)


def test_another_networks_weights(make_weights: Make) -> None:
    with pytest.raises(ConfigError, match=r"vgg16\.pth: not the weights of AlexNet: 0\.weight is \(64, 3, 3, 3\)"):
        ExtraMetrics.find(MetricOptions(alexnet=make_weights("vgg16")), CPU)
    with pytest.raises(ConfigError, match=r"alexnet\.pth: not the weights of Inception: "):
        ExtraMetrics.find(MetricOptions(inception=make_weights("alexnet")), CPU)


def test_restorations_alone(options: MetricOptions, weights: Path, tmp_path: Path) -> None:
    make_pairs(tmp_path / "pairs", count=3)
    data = ["--data", str(tmp_path / "pairs"), "--weights", str(weights), "--steps", "2", "--device", "cpu"]
    data += ["--method", f"clean={tmp_path / 'pairs/hq'}", "--out", str(tmp_path / "out")]
    files = ["--inception", str(options.inception), "--alexnet", str(options.alexnet)]
    plug = ["--embedding", str(options.embedding)]
    with pytest.raises(ConfigError, match=r"--embedding: .* have no cameras .* use --embedding-crop whole"):
        main([*data, *files, *plug])
    assert main([*data, *files, *plug, "--embedding-crop", "whole"]) == 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    own, clean = report["figures"], report["methods"]["clean"]["figures"]
    assert own["fid"]["label"] == "FID of 3 restorations"
    assert own["fid"]["value"] > clean["fid"]["value"] == pytest.approx(0, abs=1e-3)
    assert own["restored_lpips_alexnet"]["value"] > clean["restored_lpips_alexnet"]["value"] == 0
    assert own["restored_plugged_identity"]["value"] < clean["restored_plugged_identity"]["value"] == pytest.approx(1)
    assert not {"restored_dists", "lpips_alexnet"} & own.keys()
    assert report["settings"]["inception"]


def test_evaluation_with_every_metric(
    options: MetricOptions,
    weights: Path,
    heads: Benchmark,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = {"inception": options.inception, "alexnet": options.alexnet, "embedding": options.embedding}
    given = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    out = tmp_path / "out"
    command = arguments(weights, heads, out, *given, "--method", f"true={heads.folder}")
    assert main(command) == 0
    assert "LPIPS (VGG16) and DISTS left out: no vgg16-397923af.pth found" in " ".join(capsys.readouterr().out.split())
    report = json.loads((out / "report.json").read_text())
    figures, true = report["figures"], report["methods"]["true"]["figures"]
    assert figures["fid"]["label"] == "FID of 6 novel views"
    assert figures["fid"]["value"] > 1
    assert figures["fid"]["low"] is None
    assert figures["kid_1000"]["low"] < figures["kid_1000"]["value"] < figures["kid_1000"]["high"]
    assert figures["lpips_alexnet"]["value"] > 0
    assert figures["plugged_identity"]["value"] < 1
    assert "dists" not in figures
    assert true["fid"]["value"] == pytest.approx(0, abs=1e-3)
    assert true["kid_1000"]["value"] < figures["kid_1000"]["value"]
    assert true["lpips_alexnet"]["value"] == 0
    assert true["plugged_identity"]["value"] == pytest.approx(1)
    assert report["remarks"][0].startswith("LPIPS (VGG16) and DISTS left out")
    assert "features" in report["identities"][0]
    markdown = (out / "report.md").read_text()
    assert "| FID of 6 novel views | " in markdown
    assert "- LPIPS (VGG16) and DISTS left out: no vgg16" in markdown
    assert "- MUSIQ and other learned scores without a true picture left out: " in markdown
    assert "FID is the larger the fewer the pictures" in markdown
    [results] = out.glob("results-*")
    assert len(list(results.glob("0*.safetensors"))) == 2

    with monkeypatch.context() as patch:
        patch.setattr(run, "generate", forbid)
        assert main(command) == 0
        again = json.loads((out / "report.json").read_text())["figures"]
        assert again == figures
        assert main(["--compare", str(results), str(results), "--out", str(tmp_path / "compared")]) == 0
        compared = json.loads((tmp_path / "compared/comparison.json").read_text())["differences"]
        assert {"lpips_alexnet", "plugged_identity"} <= {item["key"] for item in compared}
        assert "dists" not in {item["key"] for item in compared}
        with pytest.raises(AssertionError, match="this was to be reused"):
            main(arguments(weights, heads, out))  # without the files: not the same results
