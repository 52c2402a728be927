from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nvb_core.errors import ConfigError
from training.evaluation.cli import main
from training.evaluation.compare import Side, compare, difference, row
from training.evaluation.judged import with_margins
from training.evaluation.levels import levels_to_json
from training.evaluation.metrics import CameraErrors
from training.evaluation.report import Report, to_json
from training.evaluation.scores import IdentityScores, ViewScores, write_scores
from training.evaluation.summary import MEASURES

from .test_report import make_report

SETTINGS = {"benchmark": "ab", "level": 1, "views": 1, "image_size": 32, "steps": 50}
VIEW = ViewScores(10, 5, 32.0, 22, 0.7, 0.8, 0.1, 16, 0.5, True, True)
SCORES = IdentityScores(1_000_000, 24, 26, CameraErrors(2, 1, 0.5, 3), 27, 38, 4.0, 2.0, (VIEW,), {}, "here")
PSNR = next(measure for measure in MEASURES if measure.key == "psnr")


def with_psnr(values: Sequence[float], first: int = 1_000_000) -> tuple[IdentityScores, ...]:
    return tuple(
        replace(SCORES, seed=first + i, views=(replace(VIEW, psnr=float(value)),)) for i, value in enumerate(values)
    )


def write(folder: Path, scores: tuple[IdentityScores, ...], settings: dict[str, Any] = SETTINGS, **methods: Any) -> str:
    folder.mkdir()
    report = Report({"file": "w", "sha256": "ab", "model": "tiny"}, settings, "abc", 0.0, scores, methods)
    (folder / "report.json").write_text(json.dumps(to_json(report)))
    return str(folder)


def test_interval_is_that_of_paired_differences() -> None:
    rng = np.random.default_rng(1)
    hard = rng.normal(22, 5, 300)  # heads differ far more than systems do
    gain = rng.normal(0.3, 0.5, 300)
    found = difference(PSNR, list(zip(with_psnr(hard), with_psnr(hard + gain), strict=True)))
    half = 1.96 * gain.std(ddof=1) / math.sqrt(300)
    assert found.difference == pytest.approx(gain.mean())
    assert found.low == pytest.approx(gain.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(gain.mean() + half, abs=0.1 * half)
    assert (found.verdict, found.identities) == ("higher", 300)
    back = difference(PSNR, list(zip(with_psnr(hard + gain), with_psnr(hard), strict=True)))
    assert (back.low, back.high, back.verdict) == pytest.approx((-found.high, -found.low, "lower"))  # type: ignore[operator]


def test_no_difference() -> None:
    scores = with_psnr([20, 25, 30, 35])
    found = difference(PSNR, list(zip(scores, scores, strict=True)))
    assert (found.difference, found.low, found.high, found.verdict) == (0, 0, 0, "")


def test_few_heads_give_no_verdict() -> None:
    a, b = with_psnr([20, 21, 22]), with_psnr([20.1, 21.2, 22.3])
    found = difference(PSNR, list(zip(a, b, strict=True)))
    assert found.difference == pytest.approx(0.2)
    assert (found.low, found.high, found.verdict) == (None, None, "")
    assert row(found, 3) == ("novel views PSNR, dB", "21.00", "21.20", "+0.20", "", "")
    assert row(found, 300)[0] == "novel views PSNR, dB (3 heads)"


def test_heads_without_a_value_on_one_side_do_not_count() -> None:
    [pair] = [measure for measure in MEASURES if measure.key == "pair_psnr"]
    a = [replace(SCORES, pair_psnr=value) for value in (20.0, 30.0, None)]
    b = [replace(SCORES, pair_psnr=value) for value in (21.0, None, 99.0)]
    found = difference(pair, list(zip(a, b, strict=True)))
    assert (found.a, found.b, found.identities) == (20, 21, 1)
    nothing = difference(pair, list(zip(a[2:], b[2:], strict=True)))
    assert (nothing.a, nothing.difference, nothing.verdict, nothing.identities) == (None, None, "", 0)


def test_only_heads_of_both_sides() -> None:
    a = Side("a", SETTINGS, {item.seed: item for item in with_psnr([20, 21, 22])})
    b = Side("b", SETTINGS, {item.seed: item for item in with_psnr([31, 32, 33], 1_000_001)})
    found = compare(a, b)
    assert found.seeds == (1_000_001, 1_000_002)
    [psnr] = [item for item in found.differences if item.key == "psnr"]
    assert (psnr.a, psnr.b, psnr.difference) == (21.5, 31.5, 10)
    assert {item.key for item in found.differences} == {measure.key for measure in MEASURES if measure.part(SCORES)[1]}


def test_margins_are_over_the_common_heads() -> None:
    """The nearest other one of a larger evaluation may not be among them."""
    people = [(1.0, 0.0), (0.0, 1.0), (0.6, 0.8)]
    scores = with_margins(
        [
            replace(SCORES, seed=seed, true_embedding=person, generated_embedding=person)
            for seed, person in enumerate(people)
        ]
    )
    assert scores[0].identity_margin == pytest.approx(1 - 0.6)
    many, few = (Side("x", SETTINGS, {item.seed: item for item in side}) for side in (scores, with_margins(scores[:2])))
    for sides in ((many, few), (few, many)):
        [margin] = [item for item in compare(*sides).differences if item.key == "identity_margin"]
        assert (margin.a, margin.b, margin.identities) == pytest.approx((1, 1, 2))


def test_subjects_of_a_folder_have_no_margins() -> None:
    """Two of them may be one person."""
    person = (1.0, 0.0)
    scores = [replace(SCORES, seed=seed, true_embedding=person, generated_embedding=person) for seed in range(2)]
    side = Side("x", {**SETTINGS, "data": "own"}, {item.seed: item for item in scores})
    assert "identity_margin" not in {item.key for item in compare(side, side).differences}


def test_metrics_that_one_side_lacks_are_named() -> None:
    scores = with_psnr([20, 21])
    measured = tuple(replace(item, views=(replace(VIEW, dists=0.2),)) for item in scores)
    a, b = (Side("x", SETTINGS, {item.seed: item for item in side}) for side in (scores, measured))
    [dists] = [item for item in compare(a, b).differences if item.key == "dists"]
    assert (dists.a, dists.b, dists.identities) == (None, None, 0)
    [dists] = [item for item in compare(b, b).differences if item.key == "dists"]
    assert (dists.a, dists.difference) == (pytest.approx(0.2), 0)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = tuple(replace(item, camera=None) for item in with_psnr([23, 24, 26, 27]))
    a = write(tmp_path / "a", with_psnr([20, 22, 24, 24]))
    b = write(tmp_path / "b", with_psnr([21, 23, 25, 25]), theirs=theirs)
    assert main(["--compare", a, f"{b}:theirs", "--out", str(tmp_path / "out")]) == 0
    assert "4 heads in common" in capsys.readouterr().out.replace("\n", " ")
    markdown = (tmp_path / "out/comparison.md").read_text()
    assert "| novel views PSNR, dB | 22.50 | 25.00 | +2.50 | +2.00 – +3.00 | higher |\n" in markdown
    assert "| predicted yaw, mean error | – | – | – |  |  |\n" in markdown
    differences = json.loads((tmp_path / "out/comparison.json").read_text())["differences"]
    assert {item["key"]: item["difference"] for item in differences}["psnr"] == pytest.approx(2.5)


def test_folder_of_results(tmp_path: Path) -> None:
    results = tmp_path / "results-ab"
    for item in with_psnr([20, 22]):
        write_scores(item, results / f"{item.seed:08d}.json")
    (results / "settings.json").write_text(json.dumps(SETTINGS))
    side = Side.read(str(results))
    assert {seed: item.views[0].psnr for seed, item in side.scores.items()} == {1_000_000: 20, 1_000_001: 22}


def test_what_cannot_be_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = write(tmp_path / "a", with_psnr([20]))
    with pytest.raises(ConfigError, match=r"none: no report\.json there"):
        Side.read(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"a:theirs: no method theirs in its report; there is none$"):
        Side.read(f"{a}:theirs")
    beside = write(tmp_path / "beside", with_psnr([20]), theirs=with_psnr([21]))
    with pytest.raises(ConfigError, match=r"beside:thiers: no method thiers in its report; those are theirs$"):
        Side.read(f"{beside}:thiers")
    monkeypatch.chdir(a)
    with pytest.raises(ConfigError, match=r"typo: no report\.json there"):
        Side.read("typo")
    other = write(tmp_path / "b", with_psnr([20]), {**SETTINGS, "level": 2})
    with pytest.raises(ConfigError, match=r"a has level 1, .*b 2; evaluate both on the same"):
        compare(Side.read(a), Side.read(other))
    for network in ("vgg16", "judges"):
        names = (f"{network}-v", f"{network}-w")
        measured = [write(tmp_path / name, with_psnr([20]), {**SETTINGS, network: name}) for name in names]
        with pytest.raises(ConfigError, match=rf"v has {network} \S+v, .*w; .* with the same files"):
            compare(*map(Side.read, measured))
    assert compare(Side.read(a), Side.read(measured[0])).seeds == (1_000_000,)
    elsewhere = write(tmp_path / "c", with_psnr([20], 1_000_007))
    with pytest.raises(ConfigError, match="no head in common"):
        compare(Side.read(a), Side.read(elsewhere))
    levels = levels_to_json({0: make_report(1), 2: make_report(1)})
    (tmp_path / "b/report.json").write_text(json.dumps(levels))
    with pytest.raises(ConfigError, match=r"b: holds several levels; give one of them: \S+b/level0, \S+b/level2$"):
        Side.read(other)
    with pytest.raises(ConfigError, match=r"b:theirs: holds several levels; .* \S+b/level0:theirs, \S+b/level2:theirs"):
        Side.read(f"{other}:theirs")
    (tmp_path / "a/report.json").write_text("{")
    with pytest.raises(ConfigError, match="not an evaluation by this version"):
        Side.read(a)
