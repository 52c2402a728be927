"""Each node's wrong inputs: one readable error on that node, and the server lives."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.comfyui.client import Client, RejectedError
from tests.comfyui.graph import Graph, Node
from tests.comfyui.server import Server
from tests.comfyui.stages import poses, staged

MAX_MESSAGE = 400
CORRUPT, FOREIGN = "corrupt.safetensors", "foreign.safetensors"


@dataclass(frozen=True)
class Case:
    """A graph that must fail at the node of class `node`, with a message in which `says` is found."""

    name: str
    node: str
    build: Callable[[Graph], Node]
    """Adds the failing node; an output node is added behind it."""
    says: str

    def __str__(self) -> str:
        return f"{self.node}, {self.name}"


def picture(graph: Graph, kind: str) -> Node:
    return graph.add("NVBProbeImage", kind=kind)


def keys_text(*keys: dict[str, float], frame: str = "face") -> str:
    return json.dumps({"format": "nvb-camera-keys", "version": 1, "frame": frame, "keys": list(keys)})


def picker(text: str) -> Callable[[Graph], Node]:
    return lambda graph: graph.add("NVBCameraPicker", keys=text)


def checkpoint(name: str) -> Callable[[Graph], Node]:
    return lambda graph: graph.add("NVBLoader", checkpoint=name)


def decoded(kind: str) -> Callable[[Graph], Node]:
    return lambda graph: graph.add("NVBDecode", graph.add("NVBLoader"), graph.add("NVBProbeLatent", kind=kind))


def encoded(kind: str) -> Callable[[Graph], Node]:
    return lambda graph: graph.add("NVBEncodeFace", graph.add("NVBLoader"), picture(graph, kind))


def on_picture(node: str, kind: str) -> Callable[[Graph], Node]:
    return lambda graph: graph.add(node, picture(graph, kind))


def with_two_cameras(node: str, kind: str) -> Callable[[Graph], Node]:
    return lambda graph: graph.add(node, picture(graph, kind), poses(graph, (0, 20)))


def saved_under(prefix: str) -> Callable[[Graph], Node]:
    return lambda graph: graph.add(
        "NVBSaveViews", graph.add("EmptyImage", width=64), poses(graph, (0,)), filename_prefix=prefix
    )


def grid_for_three_sources(graph: Graph) -> Node:
    stages = staged(graph)
    sources = poses(graph, (0, 10, 20))
    return graph.add("NVBBuildGrid", stages.loader, stages.features.output("NVB_FEATURES"), sources)


def selected(selection: str) -> Callable[[Graph], Node]:
    return lambda graph: graph.add("NVBSelectViews", poses(graph, (0, 10)), selection=selection)


def key_poses_missing(graph: Graph) -> Node:
    return graph.add("NVBCameraPath", path="key poses")


def frames_mixed(graph: Graph) -> Node:
    return graph.add("NVBCombineCameras", graph.add("NVBCameraPose"), graph.add("NVBCameraPose", frame="input"))


def camera_out_of_range(graph: Graph) -> Node:
    return graph.add("NVBCamerasToLoad3D", poses(graph, (0,)), index=5)


def spoiled_latent(graph: Graph) -> Node:
    stages = staged(graph)
    return graph.add("NVBDecode", stages.loader, graph.add("NVBProbeSpoiledLatent", stages.latent))


def several_views_pasted(graph: Graph) -> Node:
    stages = staged(graph)
    return graph.add("NVBPasteFace", stages.crop.output("NVB_CROP"), photo=stages.photo, faces=stages.images)


def foreign_vae(graph: Graph) -> Node:
    """Core's own VAE, of the pixels themselves."""
    latent = graph.add("NVBProbeLatent", kind="4 channels")
    return graph.add("NVBDecode", graph.add("VAELoader", vae_name="pixel_space"), latent)


def load3d(kind: str) -> Callable[[Graph], Node]:
    return lambda graph: graph.add("NVBCamerasFromLoad3D", graph.add("NVBProbeLoad3DCamera", kind=kind))


CASES = (
    Case("no face", "NVBAlignFace", on_picture("NVBAlignFace", "flat"), "face"),
    Case("no face", "NVBNovelViews", on_picture("NVBNovelViews", "flat"), "face"),
    *(
        Case(kind, node, on_picture(node, kind), says)
        for node in ("NVBAlignFace", "NVBDegrade", "NVBNovelViews")
        for kind, says in (("nan", "NaN|finite"), ("2 channels", "channels"), ("empty", "empty"), ("tiny", "pixels"))
    ),
    Case("nan", "NVBEncodeFace", encoded("nan"), "NaN|finite"),
    Case("2 channels", "NVBEncodeFace", encoded("2 channels"), "channels"),
    Case("2 channels", "NVBContactSheet", with_two_cameras("NVBContactSheet", "2 channels"), "channels"),
    Case("one picture, two cameras", "NVBContactSheet", with_two_cameras("NVBContactSheet", "flat"), "camera"),
    Case("nan", "NVBSaveViews", with_two_cameras("NVBSaveViews", "nan"), "NaN|finite"),
    Case("one picture, two cameras", "NVBSaveViews", with_two_cameras("NVBSaveViews", "flat"), "camera"),
    Case("outside the output folder", "NVBSaveViews", saved_under("../outside"), "output"),
    Case("absolute path", "NVBSaveViews", saved_under("/outside"), "output"),
    Case("4 channels", "NVBDecode", decoded("4 channels"), "shape"),
    Case("another size", "NVBDecode", decoded("another size"), "shape"),
    Case("a video's latent", "NVBDecode", decoded("video"), "dimension|shape"),
    Case("no cameras", "NVBCameraPicker", picker(keys_text()), "key|camera"),
    Case("no JSON", "NVBCameraPicker", picker("front please"), "JSON"),
    Case("unknown frame", "NVBCameraPicker", picker(keys_text({"yaw_deg": 0}, frame="world")), "frame"),
    Case("yaw missing", "NVBCameraPicker", picker(keys_text({"pitch_deg": 3})), "yaw_deg"),
    Case("three sources, one face", "NVBBuildGrid", grid_for_three_sources, "camera"),
    Case("no numbers", "NVBSelectViews", selected("the first"), "selection"),
    Case("beyond the last", "NVBSelectViews", selected("0,7"), "7"),
    Case("no key poses", "NVBCameraPath", key_poses_missing, "key"),
    Case("mixed frames", "NVBCombineCameras", frames_mixed, "frame"),
    Case("no such camera", "NVBCamerasToLoad3D", camera_out_of_range, "index"),
    Case("another model's VAE", "NVBDecode", foreign_vae, "VAE"),
    Case("two views of one crop", "NVBPasteFace", several_views_pasted, "2 pictures for 1 crops"),
    Case("NaN latent", "NVBDecode", spoiled_latent, "NaN|finite"),
    Case("no position", "NVBCamerasFromLoad3D", load3d("no position"), "position"),
    Case("at its target", "NVBCamerasFromLoad3D", load3d("at its target"), "target|position|radius"),
    Case("not safetensors", "NVBLoader", checkpoint(CORRUPT), re.escape(CORRUPT)),
    Case("another program's checkpoint", "NVBLoader", checkpoint(FOREIGN), re.escape(FOREIGN)),
    Case("no such checkpoint", "NVBLoader", checkpoint("missing.safetensors"), "missing.safetensors"),
)


@pytest.fixture(scope="module", autouse=True)
def broken_checkpoints(server: Server) -> None:
    """Checkpoints that appear while the server runs."""
    folder = server.base / "models" / "nvb_face"
    (folder / CORRUPT).write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00not JSON")
    save_file({"model.diffusion_model.weight": np.zeros((2, 2), np.float32)}, folder / FOREIGN)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_wrong_input_gives_one_readable_error(case: Case, client: Client, graph: Graph) -> None:
    failing = case.build(graph)
    graph.add("PreviewAny", failing.all_outputs()[0]) if failing.outputs else None
    node, message = failure(client, graph)
    print(f"{case}: {message.strip()}")  # pytest -rP shows them all to a human reader
    assert graph.prompt[node]["class_type"] == case.node, message
    assert re.search(case.says, message, re.IGNORECASE), message
    assert len(message) <= MAX_MESSAGE, message
    assert "\n" not in message.strip(), message
    assert "Traceback" not in message
    assert_alive(client, graph)


def failure(client: Client, graph: Graph) -> tuple[str, str]:
    """Node id and message of the one error that a graph gives, when it is queued or when it runs."""
    try:
        result = client.run(graph.prompt)
    except RejectedError as rejected:
        ((node, entry),) = rejected.node_errors.items()
        (error,) = entry["errors"]
        return node, f"{error['message']}: {error['details']}"
    assert result.status == "execution_error", result
    kind, message = result.detail["exception_type"], result.detail["exception_message"]
    assert ".nvb_core.errors." in kind, f"{kind}: {message}"
    return result.detail["node_id"], str(message)


def assert_alive(client: Client, graph: Graph) -> None:
    fresh = Graph(graph.object_info)
    fresh.add("NVBProbeShape", fresh.add("EmptyImage", width=32, height=16))
    assert client.run_well(fresh.prompt).shown("NVBProbeShape")["shape"] == [1, 16, 32, 3]


@pytest.mark.parametrize("kind", ["rgba", "gray"])
def test_transparency_and_grey_are_taken(kind: str, client: Client, graph: Graph) -> None:
    """Core passes such pictures around, and they have an obvious meaning."""
    graph.add("NVBProbeShape", graph.add("NVBDegrade", picture(graph, kind)))
    assert client.run_well(graph.prompt).shown("NVBProbeShape")["shape"] == [1, 128, 128, 3]


def test_nothing_was_written_outside_the_output_folder(client: Client) -> None:
    assert not list(client.server.base.glob("outside*"))
    assert not list(Path("/").glob("outside*"))
