"""The harness itself, with core's nodes alone: what a test of the pack relies on."""

from __future__ import annotations

import numpy as np
import pytest

from tests.comfyui.client import Client, RejectedError
from tests.comfyui.graph import Graph
from tests.comfyui.server import Server


def test_core_graph_runs(client: Client, graph: Graph) -> None:
    picture = graph.add("EmptyImage", width=24, height=16, batch_size=2, color=0x102030)
    graph.add("PreviewImage", picture)
    pictures = client.pictures(client.run_well(graph.prompt))
    assert len(pictures) == 2
    np.testing.assert_array_equal(pictures[0], np.broadcast_to(np.array([0x10, 0x20, 0x30], np.uint8), (16, 24, 3)))


def test_second_run_is_cached(client: Client, graph: Graph) -> None:
    graph.add("PreviewImage", graph.add("EmptyImage", width=40))
    assert client.run_well(graph.prompt).classes_run() == ["EmptyImage", "PreviewImage"]
    assert client.run_well(graph.prompt).classes_run() == []


def test_invalid_prompt_is_rejected(client: Client, graph: Graph) -> None:
    picture = graph.add("EmptyImage", width=-1)
    graph.add("PreviewImage", picture)
    with pytest.raises(RejectedError, match="smaller than min"):
        client.run(graph.prompt)


def test_error_of_a_node_is_reported(client: Client, graph: Graph) -> None:
    two = graph.add("EmptyImage", width=8), graph.add("EmptyImage", width=16)
    graph.add("NVBProbeDifference", *two)
    result = client.run(graph.prompt)
    assert result.status == "execution_error"
    assert result.detail["node_type"] == "NVBProbeDifference"
    assert "shapes differ" in result.detail["exception_message"]


def test_server_has_no_network(server: Server) -> None:
    assert server.network_attempts == []
