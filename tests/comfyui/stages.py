"""The pack's graphs that tests start from: every stage by hand, and all of it in one node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.comfyui.graph import Graph, Node, Output
from tests.comfyui.server import PHOTO


@dataclass(frozen=True)
class Stages:
    """A graph of the photo's way through every stage; a field is the node of that stage."""

    graph: Graph
    photo: Output
    loader: Node
    crop: Node
    features: Node
    grid: Node
    cameras: Node
    views: Node
    latent: Node
    images: Node


def staged(
    graph: Graph, *, steps: int = 2, seed: int = 0, yaws: tuple[float, ...] = (0, 30), watermark: bool = False
) -> Stages:
    """One view per yaw angle, stage by stage, without an output node."""
    photo = load_photo(graph)
    loader = graph.add("NVBLoader")
    crop = graph.add("NVBAlignFace", photo, loader)
    features = graph.add("NVBEncodeFace", loader, crop.output("IMAGE"))
    grid = graph.add("NVBBuildGrid", loader, features.output("NVB_FEATURES"))
    cameras = poses(graph, yaws)
    views = graph.add("NVBSampleViews", grid, cameras)
    latent = graph.add("NVBDDIMSampler", loader, views, steps=steps, seed=seed)
    images = graph.add("NVBDecode", loader, latent, watermark=watermark)
    return Stages(graph, photo, loader, crop, features, grid, cameras, views, latent, images)


def load_photo(graph: Graph) -> Output:
    """The example photo, without the mask that core's node gives besides."""
    return graph.add("LoadImage", image=PHOTO).output("IMAGE")


def poses(graph: Graph, yaws: tuple[float, ...]) -> Node:
    """Cameras at these yaw angles."""
    first, *others = (graph.add("NVBCameraPose", yaw_deg=float(yaw)) for yaw in yaws)
    for other in others:
        first = graph.add("NVBCombineCameras", first, other)
    return first


def novel_views(graph: Graph, **inputs: Any) -> Node:
    """All stages in one node, without an output node."""
    return graph.add("NVBNovelViews", load_photo(graph), **inputs)
