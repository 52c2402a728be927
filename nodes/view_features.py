"""3D grid and cameras -> features of each view."""

from __future__ import annotations

from comfy_api.latest import io

from ..nvb_core.cameras import Cameras
from ..nvb_core.pipeline import ViewFeatures
from ..nvb_core.view_lists import ViewList
from .sockets import CATEGORY, FACE_MAJOR, CamerasSocket, Grid, LatentGrid, ViewFeaturesSocket, ViewsOfGrid


class NVBSampleViews(io.ComfyNode):
    """Takes views from the grid: frustum sampling and depth aggregation."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NVBSampleViews",
            display_name="Sample Views",
            category=CATEGORY,
            description=(
                "Takes each camera's view from the 3D grid: frustum sampling and depth aggregation, at every denoising "
                f"step. {FACE_MAJOR} Frame input counts from each face's own camera."
            ),
            inputs=[
                Grid.Input("grid", tooltip="From Build 3D Grid."),
                CamerasSocket.Input("cameras", tooltip="Where each face is to be seen from."),
            ],
            outputs=[
                ViewFeaturesSocket.Output(
                    "view_features", display_name="view_features", tooltip="For the DDIM sampler."
                ),
                CamerasSocket.Output(
                    "view_cameras",
                    display_name="view_cameras",
                    tooltip="The camera of each of the B × N views, for contact sheet and saving.",
                ),
            ],
        )

    @classmethod
    def execute(cls, grid: LatentGrid, cameras: ViewList) -> io.NodeOutput:
        per_face = [cameras if isinstance(cameras, Cameras) else cameras.resolve(source) for source in grid.source]
        features = ViewFeatures(grid.view.model, grid.values, per_face)
        return io.NodeOutput(ViewsOfGrid(grid, features), features.cameras)
