"""Cameras of ComfyUI's 3D viewers <-> ours."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..nvb_core.cameras import Cameras
from ..nvb_core.errors import CameraError
from ..nvb_core.load3d import camera_from_load3d, camera_to_load3d
from ..nvb_core.view_lists import ViewList
from .sockets import CATEGORY, CamerasSocket


class NVBCamerasFromLoad3D(io.ComfyNode):
    """A 3D viewer's camera, for views of a face."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NVBCamerasFromLoad3D",
            display_name="Cameras from Load 3D",
            category=CATEGORY,
            description=(
                "The camera of a Load 3D node, as if its target were the head's centre and the face looked along +z."
            ),
            inputs=[
                io.Load3DCamera.Input("camera_info", tooltip="The camera output of a Load 3D node."),
                io.Float.Input(
                    "scene_scale",
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    step=0.1,
                    tooltip="Units of the 3D scene per unit here, where the normal camera stands at 2.7. 0: take only "
                    "direction and roll, with the normal distance and field of view.",
                ),
            ],
            outputs=[CamerasSocket.Output("cameras", display_name="cameras", tooltip="One camera.")],
        )

    @classmethod
    def execute(cls, camera_info: Any, scene_scale: float) -> io.NodeOutput:
        return io.NodeOutput(camera_from_load3d(camera_info, scene_scale))


class NVBCamerasToLoad3D(io.ComfyNode):
    """One of our cameras, for a 3D viewer."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NVBCamerasToLoad3D",
            display_name="Cameras to Load 3D",
            category=CATEGORY,
            description="One camera in the form that Preview 3D and others take; its target is the head's centre.",
            inputs=[
                CamerasSocket.Input("cameras", tooltip="Cameras to pick one from."),
                io.Int.Input("index", default=0, min=0, max=9999, tooltip="Which one, counting from 0."),
                io.Float.Input(
                    "scene_scale",
                    default=1.0,
                    min=0.001,
                    max=1000.0,
                    step=0.1,
                    tooltip="Units of the 3D scene per unit here, where the normal camera stands at 2.7.",
                ),
            ],
            outputs=[
                io.Load3DCamera.Output(
                    "camera_info", display_name="camera_info", tooltip="Position, target, rotation and field of view."
                )
            ],
        )

    @classmethod
    def execute(cls, cameras: ViewList, index: int, scene_scale: float) -> io.NodeOutput:
        if index >= len(cameras):
            raise CameraError(f"index {index} goes beyond the {len(cameras)} cameras, 0 to {len(cameras) - 1}")
        resolved = cameras if isinstance(cameras, Cameras) else cameras.resolve()
        return io.NodeOutput(camera_to_load3d(resolved[index], scene_scale))
