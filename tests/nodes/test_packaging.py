from __future__ import annotations

import re
import sys

from PIL import Image

from tests.nodes.conftest import ROOT, Pack

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

COMFYUI_BRINGS = {"torch", "comfyui-frontend-package"}


def test_requirements_are_the_dependencies_that_comfyui_does_not_bring() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    listed = [line for line in lines if not line.startswith("#")]
    assert listed == [r for r in project["dependencies"] if re.split(r"[^\w-]", r)[0] not in COMFYUI_BRINGS]


def test_every_node_has_a_help_page_with_its_picture(pack: Pack) -> None:
    pages = list((ROOT / "web" / "docs").glob("*.md"))
    assert {page.stem for page in pages} == {node.__name__ for node in pack.module("nodes").NODES}
    for page in pages:
        assert f"](images/{page.stem}.png)" in page.read_text(encoding="utf-8")
        with Image.open(page.parent / "images" / f"{page.stem}.png") as picture:
            assert picture.format == "PNG"
            assert picture.width >= 200
