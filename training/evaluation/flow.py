"""Do neighbouring views show one surface? Told without geometry, by optical flow that agrees with itself both ways."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from skimage.color import rgb2gray
from skimage.registration import optical_flow_ilk
from torch import Tensor

from .metrics import masked_psnr

AGREEMENT_PX = 1.0
"""There and back again may miss by this much (chosen)."""
RADIUS_PX, EDGE_PX = 5, 4
"""Of the flow's window; and the border that no flow is trusted at (chosen)."""


@dataclass(frozen=True)
class FlowAgreement:
    """How two pictures agree."""

    psnr: float | None
    """In dB, of the second warped into the first where the flows agree; None if they agree nowhere."""
    share: float
    """Of the pixels inside the border, where they do."""


def flow_agreement(first: Tensor, second: Tensor) -> FlowAgreement:
    """Images (3, H, W) in [-1, 1] of neighbouring views."""
    a, b = (((image.double() + 1) / 2).movedim(0, -1).numpy() for image in (first, second))
    grey = rgb2gray(a), rgb2gray(b)
    there = optical_flow_ilk(*grey, radius=RADIUS_PX)  # (2, H, W): a(x) = b(x + there)
    back = optical_flow_ilk(*reversed(grey), radius=RADIUS_PX)
    places = np.indices(grey[0].shape) + there
    returned = np.stack([map_coordinates(component, places, order=1, mode="nearest") for component in back])
    inside = np.zeros(grey[0].shape, bool)
    inside[EDGE_PX:-EDGE_PX, EDGE_PX:-EDGE_PX] = True
    agree = inside & (np.linalg.norm(there + returned, axis=0) < AGREEMENT_PX)
    warped = np.stack([map_coordinates(b[..., i], places, order=1, mode="nearest") for i in range(3)]) * 2 - 1
    psnr = masked_psnr(torch.from_numpy(warped), first, torch.from_numpy(agree))
    return FlowAgreement(psnr, float(agree.sum() / inside.sum()))
