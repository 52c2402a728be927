"""Face crops -> features per timestep, and the cameras that the crops were taken from."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..nvb_core.pipeline import encode_faces, predict_source
from .images import square_crops, to_core
from .networks import encoding_bytes, ready
from .sockets import CATEGORY, CamerasSocket, Encoder, FaceFeatures, Features, NetworkPart


class NVBEncodeFace(io.ComfyNode):
    """Encodes face crops and predicts their cameras."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NVBEncodeFace",
            display_name="Encode Face",
            category=CATEGORY,
            description=(
                "Prepares the features of face crops, which the 3D grid is built of, and predicts the camera that each "
                "was taken from. Features depend on the denoising step: they are computed when sampling asks for them "
                "and kept, so that other cameras or seeds don't compute them again. A batch of crops is one of faces."
            ),
            inputs=[
                Encoder.Input("encoder", tooltip="From Load NVB-Face Model."),
                io.Image.Input("crops", tooltip="Square face crops, from Align Face; resized to the model's size."),
            ],
            outputs=[
                Features.Output(
                    "features", display_name="features", tooltip="Features of the faces, for Build 3D Grid."
                ),
                CamerasSocket.Output(
                    "source_cameras", display_name="source_cameras", tooltip="The predicted camera of each crop."
                ),
            ],
        )

    @classmethod
    def execute(cls, encoder: NetworkPart, crops: Tensor) -> io.NodeOutput:
        model = encoder.model
        faces = square_crops(to_core(crops, "crops"), model.config.image_size)
        ready(encoder.patcher, memory_bytes=encoding_bytes(model, len(faces)))
        features = encode_faces(model, faces, encoder.patcher.load_device)
        source = predict_source(model, features)
        return io.NodeOutput(FaceFeatures(encoder, features, source), source)
