"""The whole pipeline in one node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder
from torch import Tensor

from ..nvb_core.fit import FIT_STEPS
from ..nvb_core.view_lists import ViewList
from .align import FACES
from .cameras import MAX_VIEWS, PATHS
from .files import BUILT_IN, checkpoint_fingerprint, checkpoint_names
from .sockets import CATEGORY, FACE_MAJOR, CamerasSocket
from .widgets import frame_input, seed_input, steps_input

CHOICES = [choice for choice in FACES if choice != "index"]
# The inner nodes are linked to the photo, not given its pixels: only so can ComfyUI tell that nothing has changed.
AS_LINK = {"rawLink": True}


class NVBNovelViews(io.ComfyNode):
    """A photo in, views out: it runs the other nodes, so that what has been computed is kept as theirs is."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NVBNovelViews",
            display_name="Novel Views",
            category=CATEGORY,
            description=(
                "All in one: finds the face in a photo and renders sharp views of it from other cameras. It runs Load, "
                f"Align, Encode, Build, Sample and Decode as separate nodes would. {FACE_MAJOR}"
            ),
            inputs=[
                io.Image.Input("image", tooltip="Photos, sharp or not, with a face in each.", extra_dict=AS_LINK),
                io.Combo.Input(
                    "preset",
                    options=list(PATHS),
                    default="sweep",
                    tooltip="Camera path, up to 45° to the sides, 15° up and down; not used if cameras are connected.",
                ),
                io.Int.Input(
                    "views",
                    default=8,
                    min=1,
                    max=MAX_VIEWS,
                    tooltip="Number of views on the path; not used if cameras are connected.",
                ),
                seed_input("Start of the random numbers; the same seed gives the same views."),
                steps_input(),
                io.Combo.Input(
                    "faces",
                    options=CHOICES,
                    default="largest",
                    tooltip="Which faces of each photo: the largest, all, or the photo's largest central square, "
                    "without looking for a face.",
                ),
                frame_input(),
                io.Boolean.Input(
                    "watermark", default=True, tooltip='Put a small "AI" mark into the bottom right corner.'
                ),
                io.Combo.Input(
                    "checkpoint",
                    options=checkpoint_names(),
                    default=BUILT_IN,
                    tooltip="The built-in model, or a .safetensors file from the nvb_face model folders.",
                ),
                CamerasSocket.Input(
                    "cameras",
                    optional=True,
                    tooltip="Cameras to use instead of the preset; they bring their own frame.",
                    extra_dict=AS_LINK,
                ),
            ],
            outputs=[
                io.Image.Output(
                    "images", display_name="images", tooltip="The views, face by face.", is_output_list=True
                ),
                CamerasSocket.Output(
                    "view_cameras",
                    display_name="view_cameras",
                    tooltip="The camera of each view.",
                    is_output_list=True,
                ),
            ],
            enable_expand=True,
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None = BUILT_IN, **_: Any) -> Any:
        return checkpoint_fingerprint(checkpoint)

    @classmethod
    def execute(
        cls,
        image: list[Any],
        preset: str,
        views: int,
        seed: int,
        steps: int,
        faces: str,
        frame: str,
        watermark: bool,
        checkpoint: str,
        cameras: list[Any] | None = None,
    ) -> io.NodeOutput:
        graph = GraphBuilder()
        model = graph.node("NVBLoader", checkpoint=checkpoint, dtype="auto")
        aligned = graph.node(
            "NVBAlignFace", image=image, faces=faces, index=0, padding=0.0, box="", encoder=model.out(0)
        )
        features = graph.node("NVBEncodeFace", encoder=model.out(0), crops=aligned.out(0))
        grid = graph.node("NVBBuildGrid", view_model=model.out(1), features=features.out(0), fit_steps=FIT_STEPS)
        path = graph.node(
            "NVBCameraPath",
            path=preset,
            views=views,
            yaw_deg=45.0,
            pitch_deg=15.0,
            radius=0.0,
            fov_deg=0.0,
            frame=frame,
        )
        sampled = graph.node("NVBSampleViews", grid=grid.out(0), cameras=path.out(0) if cameras is None else cameras)
        latent = graph.node(
            "NVBDDIMSampler",
            denoiser=model.out(2),
            view_features=sampled.out(0),
            seed=seed,
            steps=steps,
            eta=0.0,
            shared_noise=True,
            views_per_chunk=0,
        )
        images = graph.node("NVBDecode", vae=model.out(3), samples=latent.out(0), watermark=watermark, strength=1.0)
        each = graph.node("NVBGatherViews", images=images.out(0), cameras=sampled.out(1))
        return io.NodeOutput(each.out(0), each.out(1), expand=graph.finalize())


class NVBGatherViews(io.ComfyNode):
    """What Novel Views ends in, and nothing else does: a list's results, held together.

    The inner nodes run once for each item of a list of photos (or of cameras). ComfyUI would take these results for as
    many outputs of Novel Views; it takes one value for each output, here the list of them, as the schema there says.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NVBGatherViews",
            display_name="Gather Views (inside Novel Views)",
            category=CATEGORY,
            description="A part of Novel Views, of no use by itself.",
            inputs=[
                io.Image.Input("images", tooltip="The views of each photo."),
                CamerasSocket.Input("cameras", tooltip="Their cameras."),
            ],
            outputs=[
                io.Image.Output("all_images", display_name="all_images", tooltip="The list as one value."),
                CamerasSocket.Output("all_cameras", display_name="all_cameras", tooltip="The list as one value."),
            ],
            is_input_list=True,
            is_deprecated=True,  # which hides it from the node library and the search
        )

    @classmethod
    def execute(cls, images: list[Tensor], cameras: list[ViewList]) -> io.NodeOutput:
        return io.NodeOutput(images, cameras)
