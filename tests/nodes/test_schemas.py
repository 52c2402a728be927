from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
from typing import Any

import pytest

from tests.nodes.conftest import ROOT, Pack

HEAVY = ("diffusers", "transformers", "warp", "skimage", "kornia", "peft", "accelerate", "scipy", "rich", "tyro")
NODE_IDS = [
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
]


@pytest.fixture
def schemas(pack: Pack) -> list[Any]:
    return [node.define_schema() for node in pack.module("nodes").NODES]


def test_the_entry_point_gives_every_node_of_the_pack(pack: Pack) -> None:
    async def nodes() -> list[Any]:
        return await (await pack.root.comfy_entrypoint()).get_node_list()

    assert [node.define_schema().node_id for node in asyncio.run(nodes())] == [*NODE_IDS, "NVBGatherViews"]
    assert pack.root.WEB_DIRECTORY == "./web"
    assert not hasattr(pack.root, "NODE_CLASS_MAPPINGS")  # it would hide the entry point


def test_inner_nodes_are_kept_from_the_node_library(pack: Pack) -> None:
    assert all(node.define_schema().is_deprecated for node in pack.module("nodes").INNER_NODES)


def test_everything_a_user_sees_is_explained(schemas: list[Any]) -> None:
    for schema in schemas:
        assert schema.category == "NVB-Face"
        assert len(schema.description) > 40, schema.node_id
        assert schema.display_name, schema.node_id
        for socket in (*schema.inputs, *schema.outputs):
            assert socket.options.get("tooltip"), f"{schema.node_id}.{socket.id}"
        for socket in schema.outputs:
            assert socket.options["display_name"] == socket.id, f"{schema.node_id}.{socket.id}"


def test_no_name_stands_for_two_sockets_of_a_node(schemas: list[Any]) -> None:
    for schema in schemas:
        names = [socket.id for socket in (*schema.inputs, *schema.outputs)]
        assert len(names) == len(set(names)), schema.node_id


def test_nodes_with_several_faces_and_cameras_tell_the_order(schemas: list[Any]) -> None:
    told = {schema.node_id for schema in schemas if "face by face" in schema.description}
    assert told == {
        "NVBSampleViews",
        "NVBDDIMSampler",
        "NVBApplyToModel",
        "NVBNovelViews",
        "NVBContactSheet",
        "NVBSaveViews",
        "NVBSelectViews",
    }


def test_english_locale_says_what_the_nodes_say(schemas: list[Any]) -> None:
    locale = json.loads((ROOT / "locales/en/nodeDefs.json").read_text(encoding="utf-8"))
    assert list(locale) == NODE_IDS
    for schema in schemas:
        entry = locale[schema.node_id]
        assert entry["display_name"] == schema.display_name
        assert entry["description"] == schema.description
        assert {name: text["tooltip"] for name, text in entry["inputs"].items()} == {
            socket.id: socket.options["tooltip"] for socket in schema.inputs
        }
        assert [text["tooltip"] for text in entry["outputs"].values()] == [
            socket.options["tooltip"] for socket in schema.outputs
        ]
        assert list(entry["outputs"]) == [str(i) for i in range(len(schema.outputs))]
        assert all(text["name"] for text in (*entry["inputs"].values(), *entry["outputs"].values()))


def test_workflows_name_every_input_of_a_node(schemas: list[Any]) -> None:
    """Or values would shift into others' places where a node has gained one."""
    expected = {schema.node_id: {socket.id for socket in schema.inputs} for schema in schemas}
    for path in sorted((ROOT / "workflows").glob("*.json")):
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
            if node["type"] in expected:
                names = {socket["name"] for socket in node["inputs"]}
                assert names == expected[node["type"]], f"{path.name}: {node['type']}"


def test_linked_texts_are_left_for_the_run_to_check(pack: Pack) -> None:
    """ComfyUI passes None for them, to all that `validate_inputs` names."""
    checked = {
        node.__name__: inspect.signature(node.validate_inputs).parameters
        for node in pack.module("nodes").NODES
        if hasattr(node, "validate_inputs")
    }
    assert set(checked) == {"NVBAlignFace", "NVBCameraPicker", "NVBSelectViews", "NVBSaveViews"}
    for name, parameters in checked.items():
        assert pack.node(name).validate_inputs(**dict.fromkeys(parameters)) is True, name


def test_importing_the_nodes_imports_nothing_heavy() -> None:
    code = f"""
import importlib.util, sys, tempfile
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from tests.nodes.stand_in import Server
sys.modules.update(Server(Path(tempfile.gettempdir())).modules())
spec = importlib.util.spec_from_file_location("pack", {str(ROOT / "__init__.py")!r})
sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["pack"])
assert "pack.nodes" not in sys.modules, "the pack itself must be cheap"
import pack.nodes
assert "nvb_core" not in sys.modules, "an import is absolute"
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
