"""The ComfyUI nodes: adapters between ComfyUI's types and `nvb_core`, one file per stage of the data flow."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import (
    align,
    apply,
    cameras,
    decode,
    degrade,
    encode,
    grid,
    load,
    load3d,
    novel_views,
    output,
    paste,
    sample,
    view_features,
)

NODES: list[type[io.ComfyNode]] = [
    load.NVBLoader,
    align.NVBAlignFace,
    degrade.NVBDegrade,
    encode.NVBEncodeFace,
    grid.NVBBuildGrid,
    cameras.NVBCameraPose,
    cameras.NVBCameraPath,
    cameras.NVBCameraGrid,
    cameras.NVBCameraPicker,
    load3d.NVBCamerasFromLoad3D,
    load3d.NVBCamerasToLoad3D,
    cameras.NVBCombineCameras,
    cameras.NVBSelectViews,
    view_features.NVBSampleViews,
    sample.NVBDDIMSampler,
    apply.NVBApplyToModel,
    decode.NVBDecode,
    paste.NVBPasteFace,
    novel_views.NVBNovelViews,
    output.NVBContactSheet,
    output.NVBSaveViews,
]
INNER_NODES: list[type[io.ComfyNode]] = [novel_views.NVBGatherViews]
"""Nodes that only other nodes' graphs are made of."""


class NVBFaceExtension(ComfyExtension):
    """The pack, as ComfyUI sees it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [*NODES, *INNER_NODES]
