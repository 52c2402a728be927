"""The pack's sockets and what travels through them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io

from ..nvb_core.cameras import Cameras
from ..nvb_core.model import NVBModel
from ..nvb_core.pipeline import ViewFeatures
from ..nvb_core.timed import TimeConditioned
from .networks import Denoiser, UNetDifference

CATEGORY = "NVB-Face"
FACE_MAJOR = "With B faces and N cameras there are B × N views, face by face: all views of face 0, then of face 1, ..."

Encoder = io.Custom("NVB_ENCODER")
ViewModel = io.Custom("NVB_VIEW_MODEL")
DenoiserSocket = io.Custom("NVB_DENOISER")
"""`DenoiserPart | DifferencePart`."""
Features = io.Custom("NVB_FEATURES")
Grid = io.Custom("NVB_GRID")
CamerasSocket = io.Custom("NVB_CAMERAS")
"""`CameraPoses | Cameras`; poses in frame "input" are resolved where the photo's camera is known."""
ViewFeaturesSocket = io.Custom("NVB_VIEW_FEATURES")
Crop = io.Custom("NVB_CROP")
"""`nvb_core.crops.FaceCrops`."""


@dataclass(frozen=True, eq=False)
class NetworkPart:
    """Some networks of a model, and ComfyUI's handle that loads and unloads them."""

    model: NVBModel
    patcher: Any


@dataclass(frozen=True, eq=False)
class DenoiserPart:
    """Context and U-Net, and ComfyUI's handle for them."""

    model: Denoiser
    patcher: Any


@dataclass(frozen=True, eq=False)
class DifferencePart:
    """What NVB_DENOISER carries of a model without its base: a difference, and ComfyUI's handle for the context."""

    model: UNetDifference
    patcher: Any


@dataclass(frozen=True, eq=False)
class FaceFeatures:
    """What NVB_FEATURES carries: features of B faces per timestep, and where their photos were taken from."""

    encoder: NetworkPart
    values: TimeConditioned
    source: Cameras
    """(B), predicted."""


@dataclass(frozen=True, eq=False)
class LatentGrid:
    """What NVB_GRID carries: the 3D latent grids of B faces per timestep."""

    features: FaceFeatures
    view: NetworkPart
    values: TimeConditioned
    source: Cameras
    """(B), predicted or as given."""


@dataclass(frozen=True, eq=False)
class ViewsOfGrid:
    """What NVB_VIEW_FEATURES carries: features of B × N views per timestep, face-major."""

    grid: LatentGrid
    values: ViewFeatures
