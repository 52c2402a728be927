"""The pack as ComfyUI sees it after its start: imported, quick, described, helped, translated."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.comfyui.client import Client
from tests.comfyui.graph import input_specs
from tests.comfyui.provision import PACK
from tests.comfyui.server import Server

MAX_IMPORT_S = 0.3
NODES = (
    "NVBLoader",
    "NVBAlignFace",
    "NVBDegrade",
    "NVBEncodeFace",
    "NVBBuildGrid",
    "NVBCameraPose",
    "NVBCameraPath",
    "NVBCameraGrid",
    "NVBCameraPicker",
    "NVBCamerasFromLoad3D",
    "NVBCamerasToLoad3D",
    "NVBCombineCameras",
    "NVBSelectViews",
    "NVBSampleViews",
    "NVBDDIMSampler",
    "NVBApplyToModel",
    "NVBDecode",
    "NVBPasteFace",
    "NVBNovelViews",
    "NVBContactSheet",
    "NVBSaveViews",
)
INNER_NODES = {"NVBGatherViews"}
TRANSLATIONS = sorted((PACK / "locales").glob("*/nodeDefs.json"))


@pytest.mark.parametrize("name", ["server", "renamed_server"])
def test_imported_under_any_folder_name(name: str, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(name)
    assert server.import_seconds() <= MAX_IMPORT_S
    assert set(NODES) <= Client(server).object_info().keys()


def test_import_loads_nothing_heavy(renamed_server: Server) -> None:
    """Asked of the server on which nothing has run."""
    assert Client(renamed_server).heavy_modules() == []


def test_no_nodes_but_the_pack_s_own(object_info: dict[str, Any]) -> None:
    found = {name for name, node in object_info.items() if node["python_module"] == "custom_nodes.comfyui-nvb-face"}
    assert found == set(NODES) | INNER_NODES
    assert all(object_info[name]["deprecated"] for name in INNER_NODES), "they would be in the node library"


@pytest.mark.parametrize("name", NODES)
def test_node_is_described(name: str, object_info: dict[str, Any]) -> None:
    node = object_info[name]
    assert node["category"] == "NVB-Face"
    assert node["display_name"] not in ("", name)
    assert len(node["description"]) > 20
    bare = [spec.name for spec in input_specs(node) if len(spec.options.get("tooltip") or "") < 10]
    assert bare == [], f"inputs of {name} without a tooltip"
    assert len(node["output_name"]) == len(node["output"])
    tooltips = node.get("output_tooltips") or [None] * len(node["output"])
    assert all(tooltips), f"outputs of {name} without a tooltip"


@pytest.mark.parametrize("name", NODES)
def test_widget_defaults_are_valid(name: str, object_info: dict[str, Any]) -> None:
    """What the frontend fills in lies in the declared range."""
    for spec in input_specs(object_info[name]):
        if not spec.is_widget:
            continue
        value, options = spec.default(), spec.options
        if spec.kind == "COMBO":
            assert value in spec.choices, spec
        if spec.kind in ("INT", "FLOAT"):
            assert options["min"] <= value <= options["max"], spec


@pytest.mark.parametrize("name", NODES)
def test_help_page_and_its_picture_are_served(name: str, client: Client) -> None:
    folder = f"/extensions/{client.server.pack_folder}/docs"
    page = client.get(f"{folder}/{name}.md")
    assert len(page.text) > 200
    found = re.search(r"!\[.+\]\((.+)\)", page.text)
    assert found is not None
    assert client.get(f"{folder}/{found[1]}").headers["Content-Type"] == "image/png"


@pytest.mark.parametrize("path", TRANSLATIONS, ids=lambda path: path.parent.name)
def test_translation_is_complete(path: Path, object_info: dict[str, Any]) -> None:
    """Every node and every input has a name and a tooltip, and nothing is translated that isn't there."""
    texts = json.loads(path.read_text(encoding="utf-8"))
    assert texts.keys() == set(NODES)
    for name, entry in texts.items():
        assert entry["display_name"], name
        assert entry["description"], name
        inputs = {spec.name for spec in input_specs(object_info[name])}
        assert entry.get("inputs", {}).keys() == inputs, name
        for key, text in entry.get("inputs", {}).items():
            assert text["name"], (name, key)
            assert text["tooltip"], (name, key)


def test_translations_are_served(client: Client) -> None:
    served = client.get("/i18n").json()
    for path in TRANSLATIONS:
        assert served[path.parent.name]["nodeDefs"].keys() >= set(NODES)
