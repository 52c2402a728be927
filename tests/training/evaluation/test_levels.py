from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from PIL import Image

from training.evaluation.levels import write_levels
from training.evaluation.report import to_json, write_report

from .test_report import make_report, make_strips


def test_page_and_plots_of_several_levels(tmp_path: Path) -> None:
    write_levels({0: make_report(2), 2: make_report(2)}, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "report.json", "level.png", "yaw.png"}
    for name in ("level.png", "yaw.png"):
        with Image.open(tmp_path / name) as plot:
            assert min(plot.size) > 300
            assert len(plot.convert("RGB").getcolors(2**20) or []) > 20
    remarked = replace(make_report(2), remarks=("mine.pth isn't the published one",))
    assert "- mine.pth" not in (tmp_path / "report.md").read_text()
    write_levels({0: remarked, 2: remarked}, tmp_path)
    assert "\n- mine.pth isn't the published one\n" in (tmp_path / "report.md").read_text()
    again = (tmp_path / "level.png").read_bytes()
    write_levels({0: make_report(2), 2: make_report(2)}, tmp_path)
    assert (tmp_path / "level.png").read_bytes() == again


def test_json_holds_the_figures_of_all_levels(tmp_path: Path) -> None:
    """The identities are in each level's own."""
    report = replace(make_report(2), methods={"other": make_report(2).scores})
    write_levels({0: report, 2: report}, tmp_path)
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["weights"] == report.weights
    assert list(written["levels"]) == ["0", "2"]
    level = written["levels"]["0"]
    whole = json.loads(json.dumps(to_json(report)))
    assert level["report"] == "level0/report.json"
    assert level["figures"] == whole["figures"]
    assert level["methods"]["other"] == {"figures": whole["methods"]["other"]["figures"]}
    assert "identities" not in level
    assert written["levels"]["2"]["report"] == "level2/report.json"


def test_a_report_leaves_no_files_of_another_kind(tmp_path: Path) -> None:
    one, strips = make_report(1), make_strips(tmp_path / "strips", 1)
    pages = {"report.json", "report.md", "yaw.png"}

    def files() -> set[str]:
        return {path.name for path in (tmp_path / "out").glob("*.*")}

    write_report(one, tmp_path / "out", strips, Image.new("RGB", (8, 8)))
    assert files() == pages | {"sheet.png", "side_by_side.png"}
    write_levels({0: one, 2: one}, tmp_path / "out")
    assert files() == pages | {"level.png"}
    write_report(one, tmp_path / "out", strips)
    assert files() == pages | {"sheet.png"}
    assert "levels" not in json.loads((tmp_path / "out/report.json").read_text())
    write_report(replace(one, scores=(replace(one.scores[0], views=()),)), tmp_path / "out", strips)
    assert files() == (pages | {"sheet.png"}) - {"yaw.png"}
