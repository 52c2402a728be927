"""Features and source cameras -> the 3D latent grid."""

from __future__ import annotations

from comfy_api.latest import io

from ..nvb_core.cameras import Cameras
from ..nvb_core.errors import CameraError
from ..nvb_core.fit import FIT_STEPS
from ..nvb_core.pipeline import build_grid
from ..nvb_core.view_lists import ViewList
from .networks import require_same_features
from .sockets import CATEGORY, CamerasSocket, FaceFeatures, Features, Grid, LatentGrid, NetworkPart, ViewModel


class NVBBuildGrid(io.ComfyNode):
    """Gathers features into the 3D latent grid."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NVBBuildGrid",
            display_name="Build 3D Grid",
            category=CATEGORY,
            description=(
                "Builds the 3D latent grid of each face, which views from any camera are taken from. Like features, "
                "it depends on the denoising step, is computed when sampling asks for it, and is kept."
            ),
            inputs=[
                ViewModel.Input("view_model", tooltip="From Load NVB-Face Model."),
                Features.Input("features", tooltip="From Encode Face."),
                CamerasSocket.Input(
                    "source_cameras",
                    optional=True,
                    tooltip="Known cameras of the crops, one for each face or one for all, instead of the predicted "
                    "ones.",
                ),
                io.Int.Input(
                    "fit_steps",
                    default=FIT_STEPS,
                    min=0,
                    max=1000,
                    optional=True,
                    tooltip="Gradient steps that correct the grid until the photo's own view gives back what the photo "
                    "shows: views come nearer to the person. 0 takes the grid as the model makes it.",
                ),
            ],
            outputs=[
                Grid.Output("grid", display_name="grid", tooltip="3D latent grid of each face, for Sample Views.")
            ],
        )

    @classmethod
    def execute(
        cls,
        view_model: NetworkPart,
        features: FaceFeatures,
        source_cameras: ViewList | None = None,
        fit_steps: int = FIT_STEPS,
    ) -> io.NodeOutput:
        require_same_features(features.encoder.model.config, view_model.model.config, "features and view model")
        source = features.source if source_cameras is None else _known(source_cameras, len(features.source))
        values = build_grid(view_model.model, features.values, source, fit_steps)
        return io.NodeOutput(LatentGrid(features, view_model, values, source))


def _known(given: ViewList, faces: int) -> Cameras:
    """The given source cameras, one for each face."""
    cameras = given if isinstance(given, Cameras) else given.resolve()
    if len(cameras) not in (1, faces):
        raise CameraError(f"{len(cameras)} source cameras for {faces} faces; give one for each, or one for all")
    return cameras if len(cameras) == faces else Cameras.cat([cameras] * faces)
