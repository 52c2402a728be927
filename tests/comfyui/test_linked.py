"""Widgets whose value another node gives: ComfyUI knows it only when the graph runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.comfyui.client import Client
from tests.comfyui.graph import Graph, Node
from tests.comfyui.stages import load_photo, poses
from tests.comfyui.test_wrong_input import failure, keys_text


def text(graph: Graph, value: str) -> Node:
    return graph.add("PrimitiveString", value=value)


def box(graph: Graph, value: str) -> None:
    graph.add("PreviewImage", graph.add("NVBAlignFace", load_photo(graph), box=text(graph, value)).output("IMAGE"))


def keys(graph: Graph, value: str) -> None:
    graph.add("PreviewAny", graph.add("NVBCameraPicker", keys=text(graph, value)))


def selection(graph: Graph, value: str) -> None:
    chosen = graph.add("NVBSelectViews", poses(graph, (0,)), load_photo(graph), selection=text(graph, value))
    graph.add("PreviewImage", chosen.output("IMAGE"))


def prefix(graph: Graph, value: str) -> None:
    graph.add("NVBSaveViews", load_photo(graph), poses(graph, (0,)), filename_prefix=text(graph, value))


@pytest.mark.parametrize(
    ("link", "good", "bad", "says"),
    [
        (box, "180,60,120", "1;2", "isn't three numbers"),
        (keys, keys_text({"yaw_deg": 5}), "front please", "not JSON"),
        (selection, "0", "first", "isn't an index"),
        (prefix, "linked/views", "../outside", "output folder"),
    ],
    ids=["box", "keys", "selection", "filename_prefix"],
)
def test_a_linked_text_is_checked_when_it_comes(
    link: Callable[[Graph, str], None], good: str, bad: str, says: str, client: Client, object_info: dict[str, Any]
) -> None:
    graph = Graph(object_info)
    link(graph, good)
    client.run_well(graph.prompt)
    graph = Graph(object_info)
    link(graph, bad)
    _, message = failure(client, graph)
    assert says in message


def test_a_linked_checkpoint_is_loaded_once(client: Client, object_info: dict[str, Any]) -> None:
    """Not again for another crop, nor Novel Views for the same."""
    ran = []
    for padding in (0.1, 0.2, 0.2):
        graph = Graph(object_info)
        name, base = (graph.add("NVBProbeText", text=text).output("*") for text in ("built-in mini", "none"))
        encoder = graph.add("NVBLoader", checkpoint=name, base=base).output("NVB_ENCODER")
        crop = graph.add("NVBAlignFace", load_photo(graph), encoder, padding=padding).output("IMAGE")
        views = graph.add("NVBNovelViews", crop, faces="center", checkpoint=name, views=1, steps=1)
        graph.add("PreviewImage", views.output("IMAGE"))
        ran.append(client.run_well(graph.prompt).classes_run())
    assert "NVBLoader" in ran[0]
    assert "NVBLoader" not in ran[1]
    assert "NVBNovelViews" in ran[1]
    assert ran[2] == []
