"""Photos -> square face crops."""

from __future__ import annotations

import comfy.model_management as memory
import torch
from comfy_api.latest import io
from torch import Tensor

from ..nvb_core.align import CropBox, crop_image, refine_box
from ..nvb_core.crops import BOX_HELP, FaceCrops, box_in_photo, box_of_mask, crop_mask, find_boxes, padded, parse_box
from ..nvb_core.errors import ConfigError, ImageError, NVBError
from ..nvb_core.pipeline import predict_cameras
from .images import to_comfy, to_core
from .networks import encoding_bytes, ready
from .sockets import CATEGORY, Crop, Encoder, NetworkPart
from .widgets import verdict

FACES = ("largest", "all", "index", "center")
DEFAULT_SIZE_PX = 512


class NVBAlignFace(io.ComfyNode):
    """Finds faces, or takes them from a mask or a box, and cuts them out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NVBAlignFace",
            display_name="Align Face",
            category=CATEGORY,
            description=(
                "Finds faces in photos and cuts them out as the square crops that the model was trained on. With an "
                "encoder connected, the model corrects each crop's position, size and tilt, and crops have the model's "
                f"own size; without one, they are {DEFAULT_SIZE_PX} pixels and as found. A mask or a box says where "
                "the face is instead of looking for it. A batch of photos gives the crops of photo 0, then of photo 1, "
                "and so on. It is an error if a photo has no face."
            ),
            inputs=[
                io.Image.Input("image", tooltip="Photos. Transparent parts are laid over grey."),
                io.Combo.Input(
                    "faces",
                    options=list(FACES),
                    default="largest",
                    tooltip="Which faces of each photo: the largest, all (largest first), the one with the given "
                    "index, or the photo's largest central square, without looking for a face.",
                ),
                io.Int.Input(
                    "index",
                    default=0,
                    min=0,
                    max=999,
                    tooltip="With faces = index: which one, counting from 0, largest first.",
                ),
                io.Float.Input(
                    "padding",
                    default=0.0,
                    min=-0.25,
                    max=1.0,
                    step=0.01,
                    tooltip="Grow the crop on each side by this fraction of its size; below 0 it shrinks.",
                ),
                io.String.Input(
                    "box",
                    default="",
                    placeholder="x,y,size",
                    optional=True,
                    tooltip="Where the face is, in pixels: top left corner and side of a square from brows to chin, "
                    "such as 120,80,200. Empty: look for it.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the face is: painted from brows to chin. One mask for all photos, or one for each.",
                ),
                Encoder.Input(
                    "encoder",
                    optional=True,
                    tooltip="Lets the model correct the crop. Without it the crop stays as found.",
                ),
            ],
            outputs=[
                io.Image.Output("crops", display_name="crops", tooltip="Square face crops, photo by photo."),
                Crop.Output(
                    "crop_info",
                    display_name="crop_info",
                    tooltip="Where in which photo each crop lies, to map results back.",
                ),
                io.Mask.Output(
                    "crop_mask", display_name="crop_mask", tooltip="For each crop, where it lies in its photo."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, box: str | None = "") -> bool | str:
        return verdict(parse_box, box)

    @classmethod
    def execute(
        cls,
        image: Tensor,
        faces: str,
        index: int,
        padding: float,
        box: str = "",
        mask: Tensor | None = None,
        encoder: NetworkPart | None = None,
    ) -> io.NodeOutput:
        photos = to_core(image)
        height, width = photos.shape[-2:]
        size = DEFAULT_SIZE_PX if encoder is None else encoder.model.config.image_size
        if encoder is not None:
            ready(encoder.patcher, memory_bytes=encoding_bytes(encoder.model, 1))
        boxes, owners, crops = [], [], []
        for owner, photo in enumerate(photos):
            for found in _boxes(photo, owner, len(photos), index if faces == "index" else faces, box, mask):
                memory.throw_exception_if_processing_interrupted()
                chosen = padded(found if encoder is None else _refined(photo, found, encoder), padding)
                boxes.append(chosen)
                owners.append(owner)
                crops.append(crop_image(photo, chosen, size))
        device = memory.intermediate_device()
        masks = torch.empty(len(boxes), height, width, device=device)  # large, of many faces: never there twice
        for each, chosen in zip(masks, boxes, strict=True):
            each.copy_(crop_mask(chosen, width, height))
        info = FaceCrops(tuple(boxes), tuple(owners), width, height)
        return io.NodeOutput(to_comfy(torch.stack(crops)).to(device), info, masks)


def _boxes(photo: Tensor, owner: int, photos: int, choice: str | int, box: str, mask: Tensor | None) -> list[CropBox]:
    """First crops of one photo (3, H, W). Errors name the photo."""
    height, width = photo.shape[-2:]
    typed = parse_box(box)
    if typed is not None and mask is not None:
        raise ConfigError("box and mask both say where the face is; empty the one or disconnect the other")
    if isinstance(choice, str) and choice not in FACES:
        raise ConfigError(f"faces {choice!r:.40} must be one of {', '.join(FACES)}")
    try:
        if typed is not None:
            return [box_in_photo(typed, width, height)]
        if mask is not None:
            return [box_of_mask(_mask_of(mask, owner, photos, height, width))]
        return find_boxes(photo, choice)
    except NVBError as error:
        raise type(error)(f"photo {owner}: {error}" if photos > 1 else str(error)) from None


def _mask_of(mask: Tensor, owner: int, photos: int, height: int, width: int) -> Tensor:
    """The mask (H, W) of one photo."""
    masks = mask.detach().to("cpu", torch.float32).reshape(-1, *mask.shape[-2:])
    painted = bool((masks > 0.5).any())  # a photo without transparency comes with an empty mask of some other size
    if len(masks) not in (1, photos) or (painted and masks.shape[-2:] != (height, width)):
        raise ImageError(
            f"{len(masks)} masks of {masks.shape[-1]}×{masks.shape[-2]} pixels for {photos} photos of "
            f"{width}×{height}; give one for all or one for each, of the photo's size, or a box: {BOX_HELP}"
        )
    return masks[owner % len(masks)]


def _refined(photo: Tensor, box: CropBox, encoder: NetworkPart) -> CropBox:
    model, device = encoder.model, encoder.patcher.load_device
    return refine_box(photo, box, lambda crop: predict_cameras(model, crop, device), model.config.image_size)
