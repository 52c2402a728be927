"""Where the views are seen from: poses, paths, grids, the picker, and lists of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ..nvb_core import camera_paths
from ..nvb_core.camera_keys import read_camera_keys
from ..nvb_core.camera_paths import CameraPoses, Frame, keyframes
from ..nvb_core.errors import CameraError, ConfigError
from ..nvb_core.view_lists import ViewList, join_views, parse_selection, path_through, take_views
from .sockets import CATEGORY, FACE_MAJOR, CamerasSocket
from .widgets import frame_input, lens_inputs, verdict

KEY_POSES = "key poses"
PATHS: dict[str, Callable[[int, float, float], CameraPoses]] = {
    "sweep": lambda views, yaw, _: camera_paths.yaw_sweep(views, -yaw, yaw),
    "pitch sweep": lambda views, _, pitch: camera_paths.pitch_sweep(views, -pitch, pitch),
    "orbit": camera_paths.orbit,
    "figure-eight": camera_paths.figure_eight,
    "spiral": camera_paths.spiral,
}
DEFAULT_KEYS = (
    '{"format": "nvb-camera-keys", "version": 1, "frame": "face", '
    '"keys": [{"yaw_deg": -45}, {"yaw_deg": 0}, {"yaw_deg": 45}]}'
)
MAX_VIEWS = 1000
_OUTPUT = "The cameras, for Sample Views."


def path_input() -> io.Combo.Input:
    """The named paths."""
    return io.Combo.Input(
        "path",
        options=[*PATHS, KEY_POSES],
        default="sweep",
        tooltip="sweep: yaw from one side to the other. pitch sweep: from below to above. orbit: an ellipse around "
        "the front. figure-eight and spiral: as their names say. key poses: through the connected poses.",
    )


def posed(poses: CameraPoses, radius: float, fov_deg: float, frame: Frame, roll_deg: float = 0.0) -> CameraPoses:
    """The poses' angles with the values of a node's other inputs, where 0 leaves radius and field of view open."""
    return CameraPoses(poses.yaw_deg, poses.pitch_deg, roll_deg, radius or None, fov_deg or None, frame)


def path_poses(path: str, views: int, yaw_deg: float, pitch_deg: float) -> CameraPoses:
    """A named path. Raises ConfigError for an unknown name."""
    if path not in PATHS:
        raise ConfigError(f"path {path!r:.40} must be one of {', '.join(PATHS)}")
    return PATHS[path](views, yaw_deg, pitch_deg)


class NVBCameraPose(io.ComfyNode):
    """One camera, by its angles."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NVBCameraPose",
            display_name="Camera Pose",
            category=CATEGORY,
            description="One camera on a sphere around the head, looking at it.",
            inputs=[
                io.Float.Input(
                    "yaw_deg",
                    default=0.0,
                    min=-180.0,
                    max=180.0,
                    step=1.0,
                    tooltip="Degrees; above 0 moves the camera to the subject's left.",
                ),
                io.Float.Input(
                    "pitch_deg", default=0.0, min=-90.0, max=90.0, step=1.0, tooltip="Degrees; above 0 moves it up."
                ),
                io.Float.Input(
                    "roll_deg",
                    default=0.0,
                    min=-180.0,
                    max=180.0,
                    step=1.0,
                    tooltip="Degrees; above 0 turns the picture clockwise.",
                ),
                *lens_inputs(),
                frame_input(),
            ],
            outputs=[CamerasSocket.Output("cameras", display_name="cameras", tooltip=_OUTPUT)],
        )

    @classmethod
    def execute(
        cls, yaw_deg: float, pitch_deg: float, roll_deg: float, radius: float, fov_deg: float, frame: Frame
    ) -> io.NodeOutput:
        return io.NodeOutput(posed(CameraPoses(yaw_deg, pitch_deg), radius, fov_deg, frame, roll_deg))


class NVBCameraPath(io.ComfyNode):
    """Cameras along a path."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NVBCameraPath",
            display_name="Camera Path",
            category=CATEGORY,
            description=(
                "Cameras along a path, in order: for turntables and videos. Orbit and figure-eight are closed loops: "
                "the view after the last is the first again."
            ),
            inputs=[
                path_input(),
                io.Int.Input("views", default=8, min=1, max=MAX_VIEWS, tooltip="Number of cameras on the path."),
                io.Float.Input(
                    "yaw_deg",
                    default=45.0,
                    min=0.0,
                    max=180.0,
                    step=1.0,
                    tooltip="How far the path goes to either side, in degrees. Not used by pitch sweep and key poses.",
                ),
                io.Float.Input(
                    "pitch_deg",
                    default=15.0,
                    min=0.0,
                    max=90.0,
                    step=1.0,
                    tooltip="How far the path goes up and down, in degrees. Not used by sweep and key poses.",
                ),
                *lens_inputs(),
                frame_input(),
                CamerasSocket.Input(
                    "key_poses",
                    optional=True,
                    tooltip="With path = key poses: poses to pass through, which bring their own radius, field of view "
                    "and frame. Build them with Camera Pose and Combine Cameras, or with the picker.",
                ),
            ],
            outputs=[CamerasSocket.Output("cameras", display_name="cameras", tooltip=_OUTPUT)],
        )

    @classmethod
    def execute(
        cls,
        path: str,
        views: int,
        yaw_deg: float,
        pitch_deg: float,
        radius: float,
        fov_deg: float,
        frame: Frame,
        key_poses: ViewList | None = None,
    ) -> io.NodeOutput:
        if path != KEY_POSES:
            return io.NodeOutput(posed(path_poses(path, views, yaw_deg, pitch_deg), radius, fov_deg, frame))
        if key_poses is None:
            raise CameraError("path is key poses, but none are connected; connect key_poses or choose another path")
        return io.NodeOutput(path_through(key_poses, views))


class NVBCameraGrid(io.ComfyNode):
    """Cameras in rows and columns."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NVBCameraGrid",
            display_name="Camera Grid",
            category=CATEGORY,
            description="Every pair of evenly spaced yaws and pitches, row by row: all yaws at the lowest pitch first.",
            inputs=[
                io.Int.Input("columns", default=5, min=1, max=100, tooltip="Number of yaws; a single one is 0°."),
                io.Int.Input("rows", default=3, min=1, max=100, tooltip="Number of pitches; a single one is 0°."),
                io.Float.Input(
                    "yaw_deg",
                    default=45.0,
                    min=0.0,
                    max=180.0,
                    step=1.0,
                    tooltip="Outermost yaw to either side, in degrees.",
                ),
                io.Float.Input(
                    "pitch_deg",
                    default=20.0,
                    min=0.0,
                    max=90.0,
                    step=1.0,
                    tooltip="Outermost pitch up and down, in degrees.",
                ),
                *lens_inputs(),
                frame_input(),
            ],
            outputs=[CamerasSocket.Output("cameras", display_name="cameras", tooltip=_OUTPUT)],
        )

    @classmethod
    def execute(
        cls, columns: int, rows: int, yaw_deg: float, pitch_deg: float, radius: float, fov_deg: float, frame: Frame
    ) -> io.NodeOutput:
        poses = camera_paths.grid(_spread(columns, yaw_deg), _spread(rows, pitch_deg))
        return io.NodeOutput(posed(poses, radius, fov_deg, frame))


class NVBCameraPicker(io.ComfyNode):
    """Cameras aimed with the mouse."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NVBCameraPicker",
            display_name="Camera Picker",
            category=CATEGORY,
            description="Cameras picked with the mouse on a sphere around the head, or a path through them.",
            inputs=[
                io.String.Input(
                    "keys",
                    multiline=True,
                    default=DEFAULT_KEYS,
                    tooltip="The picked cameras as JSON; the picker writes it, and it can be written by hand.",
                ),
                io.Int.Input(
                    "views",
                    default=0,
                    min=0,
                    max=MAX_VIEWS,
                    tooltip="0: exactly the picked cameras. Otherwise that many along the path through them.",
                ),
            ],
            outputs=[CamerasSocket.Output("cameras", display_name="cameras", tooltip=_OUTPUT)],
        )

    @classmethod
    def validate_inputs(cls, keys: str | None = DEFAULT_KEYS) -> bool | str:
        return verdict(read_camera_keys, keys)

    @classmethod
    def execute(cls, keys: str, views: int) -> io.NodeOutput:
        poses = read_camera_keys(keys)
        return io.NodeOutput(keyframes(poses, views) if views else poses)


class NVBCombineCameras(io.ComfyNode):
    """Lists of cameras, one after the other."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NVBCombineCameras",
            display_name="Combine Cameras",
            category=CATEGORY,
            description="Joins lists of cameras in order. Poses of frame input can be joined only with such poses.",
            inputs=[
                CamerasSocket.Input("cameras_1", tooltip="The first cameras."),
                CamerasSocket.Input("cameras_2", tooltip="The cameras after them."),
                CamerasSocket.Input("cameras_3", optional=True, tooltip="More cameras, if any."),
                CamerasSocket.Input("cameras_4", optional=True, tooltip="More cameras, if any."),
            ],
            outputs=[CamerasSocket.Output("cameras", display_name="cameras", tooltip="All of them, in order.")],
        )

    @classmethod
    def execute(
        cls,
        cameras_1: ViewList,
        cameras_2: ViewList,
        cameras_3: ViewList | None = None,
        cameras_4: ViewList | None = None,
    ) -> io.NodeOutput:
        parts = (cameras_1, cameras_2, cameras_3, cameras_4)
        return io.NodeOutput(join_views([part for part in parts if part is not None]))


class NVBSelectViews(io.ComfyNode):
    """Some of the cameras, and their pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NVBSelectViews",
            display_name="Select Views",
            category=CATEGORY,
            description=f"Picks some cameras, and the pictures that belong to them if connected. {FACE_MAJOR}",
            inputs=[
                CamerasSocket.Input("cameras", tooltip="Cameras to pick from."),
                io.String.Input(
                    "selection",
                    default="all",
                    tooltip='Which ones, counting from 0: "0,3,5-8" (8 included), "0-30/2" for every second, or "all".',
                ),
                io.Image.Input("images", optional=True, tooltip="One picture for each of the cameras, in their order."),
            ],
            outputs=[
                CamerasSocket.Output(
                    "selected_cameras",
                    display_name="selected_cameras",
                    tooltip="The picked cameras, in the order picked.",
                ),
                io.Image.Output(
                    "selected_images",
                    display_name="selected_images",
                    tooltip="Their pictures, if pictures are connected.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, selection: str | None = "all") -> bool | str:
        return verdict(parse_selection, selection)

    @classmethod
    def execute(cls, cameras: ViewList, selection: str, images: Tensor | None = None) -> io.NodeOutput:
        indices = parse_selection(selection, len(cameras))
        chosen = take_views(cameras, indices)
        if images is None:
            return io.NodeOutput(chosen, ExecutionBlocker("Select Views: connect images to get selected images"))
        if len(images) != len(cameras):
            raise ConfigError(f"{len(images)} images for {len(cameras)} cameras; connect those that belong together")
        return io.NodeOutput(chosen, images[indices])


def _spread(count: int, outermost: float) -> list[float]:
    """Evenly spaced from one side to the other; a single one in the middle."""
    return [0.0] if count == 1 else torch.linspace(-outermost, outermost, count, dtype=torch.float64).tolist()
