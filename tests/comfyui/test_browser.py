"""What a user sees in the browser: a dropped workflow, its run, its pictures; each workflow leaves a screenshot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.comfyui.browser import Frontend
from tests.comfyui.client import Client, Prompt, RejectedError
from tests.comfyui.graph import Graph
from tests.comfyui.server import WORKFLOWS, Server
from tests.comfyui.stages import novel_views, staged

pytestmark = pytest.mark.browser

WORKFLOW_FILES = sorted(WORKFLOWS.glob("*.json"))
NEEDS_MODELS = [path for path in WORKFLOW_FILES if "CheckpointLoaderSimple" in path.read_text(encoding="utf-8")]
"""Workflows for models that don't come with the pack."""
RUN_TIMEOUT_S = 300
PICTURES_TIMEOUT_S = 60
QUICK = {"steps": 2, "views": 3, "frames": 3, "frame_count": 3}
"""Widgets of the pack's nodes that are lowered to these values, so that a workflow runs in seconds on the CPU."""
COMMON: dict[str, Any] = {"flags": {}, "mode": 0, "properties": {}, "inputs": [], "outputs": []}
CORE_GRAPH: dict[str, Any] = {
    "last_node_id": 2,
    "last_link_id": 1,
    "nodes": [
        COMMON
        | {"id": 1, "type": "EmptyImage", "order": 0, "pos": [100, 200], "size": [300, 130]}
        | {"outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1]}], "widgets_values": [64, 48, 1, 0xFF0000]},
        COMMON
        | {"id": 2, "type": "PreviewImage", "order": 1, "pos": [500, 200], "size": [300, 300]}
        | {"inputs": [{"name": "images", "type": "IMAGE", "link": 1}]},
    ],
    "links": [[1, 1, 0, 2, 0, "IMAGE"]],
    "version": 0.4,
}


@pytest.fixture
def clean_frontend(frontend: Frontend) -> Iterator[Frontend]:
    """The browser page, freshly loaded; afterwards no complaint may have been raised by the pack's own files."""
    frontend.complaints.clear()
    frontend.open()
    yield frontend
    assert frontend.complaints == []


def test_core_workflow_runs(clean_frontend: Frontend, client: Client, tmp_path: Path) -> None:
    """The harness itself: drop, convert, run, see the picture."""
    frontend = clean_frontend
    path = tmp_path / "core.json"
    path.write_text(json.dumps(CORE_GRAPH))
    frontend.drop_workflow(path)
    assert frontend.alerts() == []
    assert frontend.missing_nodes() == []
    assert frontend.api_prompt()["1"]["inputs"] == {"width": 64, "height": 48, "batch_size": 1, "color": 0xFF0000}
    prompt_id = frontend.press_run()
    frontend.wait_for_pictures([2], timeout_s=PICTURES_TIMEOUT_S)
    assert client.history(prompt_id)["status"]["status_str"] == "success"


def test_missing_nodes_are_noticed(clean_frontend: Frontend, tmp_path: Path) -> None:
    """The harness itself: a workflow with an unknown node would not pass."""
    path = tmp_path / "unknown.json"
    path.write_text(json.dumps(CORE_GRAPH).replace("EmptyImage", "NoSuchNode"))
    clean_frontend.drop_workflow(path)
    assert clean_frontend.missing_nodes() == ["NoSuchNode"]


def test_stages_run_in_the_browser(clean_frontend: Frontend, client: Client, graph: Graph, artefacts: Path) -> None:
    """Every stage by hand: the frontend builds the nodes from their descriptions alone."""
    frontend = clean_frontend
    graph.add("PreviewImage", staged(graph, seed=21).images)
    frontend.load_api_prompt(graph.prompt, "stages")
    assert frontend.alerts() == []
    assert frontend.missing_nodes() == []
    assert links_and_values(frontend.api_prompt()) == links_and_values(graph.prompt)
    record = client.wait_for_history(frontend.press_run(), RUN_TIMEOUT_S)
    assert record["status"]["status_str"] == "success", json.dumps(record["status"], indent=1)[:4000]
    frontend.wait_for_pictures(picture_nodes(record["outputs"]), timeout_s=PICTURES_TIMEOUT_S)
    frontend.screenshot(artefacts / "stages.png")
    assert_survives_reload(frontend)


def test_camera_dragged_in_the_picker(clean_frontend: Frontend, client: Client, graph: Graph, artefacts: Path) -> None:
    """Press on the sphere, drag, release: another camera, and the run renders it."""
    frontend = clean_frontend
    picker = graph.add("NVBCameraPicker")
    preview = graph.add("PreviewImage", novel_views(graph, cameras=picker, steps=2))
    frontend.load_api_prompt(graph.prompt, "picker")
    frontend.fit()
    before = json.loads(frontend.api_prompt()[picker.id]["inputs"]["keys"])["keys"]
    frontend.drag(frontend.page.locator(".nvb-picker [role=application]"), (0.62, 0.44), (0.70, 0.38))
    after = json.loads(frontend.api_prompt()[picker.id]["inputs"]["keys"])["keys"]
    assert len(after) == len(before) + 1
    assert not any(map(is_up_left, before))
    assert any(map(is_up_left, after))
    record = client.wait_for_history(frontend.press_run(), RUN_TIMEOUT_S)
    assert len(record["outputs"][preview.id]["images"]) == len(after)
    frontend.wait_for_pictures([int(preview.id)], timeout_s=PICTURES_TIMEOUT_S)
    frontend.screenshot(artefacts / "picker.png")
    assert_survives_reload(frontend)


@pytest.mark.parametrize("path", NEEDS_MODELS, ids=lambda path: path.stem)
def test_workflow_lacks_only_its_models(path: Path, clean_frontend: Frontend, client: Client, artefacts: Path) -> None:
    """Drop, save, reload; the server finds nothing wrong but the files that only the user has."""
    frontend = clean_frontend
    frontend.drop_workflow(path)
    assert frontend.missing_nodes() == []
    assert_survives_reload(frontend)
    with pytest.raises(RejectedError) as error, client.start(frontend.api_prompt()):
        pass
    complaints = {
        (node["class_type"], complaint["type"], complaint["extra_info"]["input_name"])
        for node in error.value.node_errors.values()
        for complaint in node["errors"]
    }
    assert ("CheckpointLoaderSimple", "value_not_in_list", "ckpt_name") in complaints
    # Of new-style nodes some versions of ComfyUI check this only when they run.
    assert len(complaints - {("NVBLoader", "value_not_in_list", "checkpoint")}) == 1
    frontend.screenshot(artefacts / f"{path.stem}.png")


@pytest.mark.parametrize("path", [p for p in WORKFLOW_FILES if p not in NEEDS_MODELS], ids=lambda path: path.stem)
def test_workflow(path: Path, clean_frontend: Frontend, client: Client, artefacts: Path) -> None:
    """Drop, save, reload, compare; run with few steps, see pictures."""
    frontend = clean_frontend
    frontend.drop_workflow(path)
    assert frontend.alerts() == []
    assert frontend.missing_nodes() == []
    for name, value in QUICK.items():
        frontend.lower_widget("NVB", name, value)
    assert_survives_reload(frontend)  # before the run, which draws new seeds and gives core's nodes a hidden input
    prompt = frontend.api_prompt()
    prompt_id = frontend.press_run()
    record = client.wait_for_history(prompt_id, RUN_TIMEOUT_S)
    assert record["status"]["status_str"] == "success", json.dumps(record["status"], indent=1)[:4000]
    assert_pictures_are_right(prompt, record["outputs"], client)
    frontend.wait_for_pictures(picture_nodes(record["outputs"]), timeout_s=PICTURES_TIMEOUT_S)
    frontend.screenshot(artefacts / f"{path.stem}.png")


@pytest.mark.parametrize("path", WORKFLOW_FILES, ids=lambda path: path.stem)
def test_workflow_has_a_thumbnail(path: Path, client: Client) -> None:
    """The template browser finds workflow and picture under the pack's name."""
    pack = client.server.pack_folder
    assert path.stem in client.get("/workflow_templates").json()[pack]
    assert client.get(f"/api/workflow_templates/{pack}/{path.name}").json() == json.loads(path.read_text())
    thumbnail = client.get(f"/api/workflow_templates/{pack}/{path.stem}.jpg")
    assert thumbnail.headers["Content-Type"] == "image/jpeg"


def test_page_asks_for_nothing_beyond_this_machine(frontend: Frontend) -> None:
    """By the pack: what ComfyUI's own frontend asks for is blocked and not this test's concern."""
    assert [address for address in frontend.blocked if "nvb" in address.lower()] == []


@pytest.mark.parametrize("path", WORKFLOW_FILES, ids=lambda path: path.stem)
def test_workflow_loads_in_nodes_2(path: Path, nodes_2: Frontend, artefacts: Path) -> None:
    """The newer rendering of nodes, in which widgets are HTML."""
    nodes_2.drop_workflow(path)
    assert nodes_2.alerts() == []
    assert nodes_2.missing_nodes() == []
    assert nodes_2.page.locator("[data-node-id]").count() > 0
    assert_survives_reload(nodes_2, but="size")  # which the page works out there
    nodes_2.screenshot(artefacts / f"{path.stem}-nodes-2.png")
    assert nodes_2.complaints == []


@pytest.fixture(scope="module")
def nodes_2(server: Server, frontend: Frontend) -> Iterator[Frontend]:
    """The browser page with "Nodes 2.0" switched on."""
    frontend.set_setting("Comfy.VueNodes.Enabled", True)
    frontend.complaints.clear()
    frontend.open()
    yield frontend
    frontend.set_setting("Comfy.VueNodes.Enabled", False)


def picture_nodes(outputs: dict[str, Any]) -> list[int]:
    """Ids of the top level's nodes that show still pictures."""
    return [
        int(node)
        for node, shown in outputs.items()
        if shown.get("images") and node.isdigit() and not shown.get("animated")
    ]


def assert_pictures_are_right(prompt: Prompt, outputs: dict[str, Any], client: Client) -> None:
    """Every output node of the graph has shown something, and every picture is a picture."""
    classes = client.object_info()
    expected = {node for node, entry in prompt.items() if classes[entry["class_type"]]["output_node"]}
    assert expected <= outputs.keys()
    assert picture_nodes(outputs)
    for node, shown in outputs.items():
        for entry in shown.get("images", []):
            if shown.get("animated"):
                continue
            picture = client.picture(entry)
            assert picture.ndim == 3, (node, picture.shape)
            assert min(picture.shape[:2]) >= 64, (node, picture.shape)
            assert np.ptp(picture[..., :3], axis=(0, 1)).max() > 20, f"node {node} shows one flat colour"


def is_up_left(key: dict[str, float]) -> bool:
    """Whether a camera looks from above and from the subject's left, which is on the right of the picker."""
    return key["yaw_deg"] > 5 and key.get("pitch_deg", 0) > 5


def links_and_values(prompt: Prompt) -> dict[str, Any]:
    """A prompt without the titles that the frontend adds."""
    return {node: (entry["class_type"], entry["inputs"]) for node, entry in prompt.items()}


def assert_survives_reload(frontend: Frontend, but: str = "") -> None:
    """Saving and opening again changes neither the graph, but for one property, nor what would be queued."""
    saved, prompt = frontend.serialized(), frontend.api_prompt()
    frontend.load_graph(saved)
    frontend.page.wait_for_timeout(500)
    before, after = comparable(saved, but), comparable(frontend.serialized(), but)
    for node, seen in before["nodes"].items():
        assert after["nodes"][node] == seen
    assert after == before
    assert frontend.api_prompt() == prompt


def comparable(graph: dict[str, Any], but: str) -> dict[str, Any]:
    """What a user can see or set in a saved graph; the frontend also stores what it works out anew each time."""
    nodes = {}
    for node in graph["nodes"]:
        kept = {key: node.get(key) for key in ("type", "title", "pos", "size", "mode", "flags", "properties")}
        kept["widgets"] = node.get("widgets_values") or []
        kept["inputs"] = [(slot["name"], slot["type"], slot.get("link")) for slot in node.get("inputs", [])]
        kept["outputs"] = [(slot["name"], slot["type"], slot.get("links") or []) for slot in node.get("outputs", [])]
        nodes[node["id"]] = {key: value for key, value in kept.items() if key != but}
    return {"nodes": nodes, "links": sorted(graph["links"]), "groups": graph.get("groups", [])}
