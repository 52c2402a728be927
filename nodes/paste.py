"""Views of face crops -> back into the photos."""

from __future__ import annotations

import comfy.model_management as memory
from comfy_api.latest import io
from torch import Tensor

from ..nvb_core.crops import FaceCrops
from ..nvb_core.paste import paste_faces
from ..nvb_core.watermark import add_watermark
from .images import to_comfy, to_core
from .sockets import CATEGORY, Crop


class NVBPasteFace(io.ComfyNode):
    """Puts restored faces back where their crops were cut out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NVBPasteFace",
            display_name="Paste Face",
            category=CATEGORY,
            description=(
                "Puts pictures of faces back into the photos that Align Face cut them out of, at the photo's own "
                'resolution. For a restored photo, give it the view from yaw 0 and pitch 0 in frame "input" of each '
                "crop. Put the mark here, not in Decode Views: a crop's own corner fades away."
            ),
            inputs=[
                io.Image.Input(
                    "photo", tooltip="The photos that went into Align Face. Transparent parts are laid over grey."
                ),
                io.Image.Input("faces", tooltip="One picture for each crop, in the order of the crops; of any size."),
                Crop.Input("crop_info", tooltip="From Align Face."),
                io.Float.Input(
                    "feather",
                    default=0.15,
                    min=0.0,
                    max=0.5,
                    step=0.01,
                    tooltip="How far the face fades into the photo, as a fraction of the crop's side.",
                ),
                io.Boolean.Input(
                    "watermark",
                    default=True,
                    tooltip='Put a small "AI" mark into the bottom right corner of the photo.',
                ),
            ],
            outputs=[io.Image.Output("pasted", display_name="pasted", tooltip="The photos with the new faces.")],
        )

    @classmethod
    def execute(
        cls, photo: Tensor, faces: Tensor, crop_info: FaceCrops, feather: float, watermark: bool
    ) -> io.NodeOutput:
        photos = paste_faces(to_core(photo, "photo"), to_core(faces, "faces"), crop_info, feather)
        return io.NodeOutput(to_comfy(add_watermark(photos) if watermark else photos).to(memory.intermediate_device()))
