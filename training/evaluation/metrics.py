"""How alike pictures, warped pictures and cameras are. Images are (M, 3, H, W) in [-1, 1] throughout."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nvb_core.cameras import Cameras

MAX_PSNR_DB = 100.0
"""What equal pictures score, so that means stay finite."""
SSIM_WINDOW_PX, SSIM_SIGMA_PX = 11, 1.5
MS_SSIM_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the scales, finest first (Wang et al. 2003)."""
GMSD_CONSTANT = 170 / 255**2
DEPTH_TOLERANCE = 0.02
"""World units (3 % of the canonical view's width) by which two depths of the same point may differ."""


def psnr(images: Tensor, targets: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (M,) in dB over all pixels and channels; the peak is 2, the width of [-1, 1]."""
    return _decibels((images.double() - targets.double()).square().mean(dim=(1, 2, 3)))


def masked_psnr(image: Tensor, target: Tensor, mask: Tensor) -> float | None:
    """PSNR in dB of images (3, H, W) over the pixels of mask (H, W); None where it has none."""
    if not bool(mask.any()):
        return None
    difference = (image.double() - target.double())[:, mask]
    return float(_decibels(difference.square().mean()))


def _decibels(mse: Tensor) -> Tensor:
    return 10 * torch.log10(4 / mse.clamp_min(4 * 10 ** (-MAX_PSNR_DB / 10)))


def ssim(images: Tensor, targets: Tensor) -> Tensor:
    """Structural similarity (M,) of Wang et al. 2004: Gaussian window of 11 px, sigma 1.5; on [0, 1]: range 1.

    As there, only windows that lie wholly inside the picture count; images need at least 11 px a side.
    """
    luminance, contrast = _ssim_terms((images.double() + 1) / 2, (targets.double() + 1) / 2)
    return (luminance * contrast).mean(dim=(1, 2, 3))


def ms_ssim(images: Tensor, targets: Tensor) -> Tensor:
    """Multi-scale structural similarity (M,) of Wang et al. 2003, on [0, 1]: range 1; windows as in `ssim`.

    Of its five scales those are taken that hold a window (at 128 px four), their exponents scaled to sum to 1. Terms
    are means over pixels and channels; negative ones count as 0.
    """
    x, y = ((pictures.double() + 1) / 2 for pictures in (images, targets))
    scales = min(len(MS_SSIM_EXPONENTS), int(math.log2(min(x.shape[-2:]) / SSIM_WINDOW_PX)) + 1)
    exponents = torch.tensor(MS_SSIM_EXPONENTS[:scales]).double()
    terms = []
    for _ in range(scales):
        luminance, contrast = _ssim_terms(x, y)
        terms.append(contrast.mean(dim=(1, 2, 3)))
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    terms[-1] = (luminance * contrast).mean(dim=(1, 2, 3))
    return (torch.stack(terms, -1).clamp_min(0) ** (exponents / exponents.sum())).prod(-1)


def _ssim_terms(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance term and contrast-structure term of each window inside images in [0, 1]."""
    axis = torch.arange(SSIM_WINDOW_PX, dtype=x.dtype) - SSIM_WINDOW_PX // 2
    bell = torch.exp(-0.5 * (axis / SSIM_SIGMA_PX) ** 2)
    bell = (bell / bell.sum()).expand(x.shape[1], 1, 1, -1)

    def smooth(values: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(values, bell, groups=len(bell)), bell.mT, groups=len(bell))

    mean_x, mean_y = smooth(x), smooth(y)
    variances = smooth(x * x) - mean_x**2 + smooth(y * y) - mean_y**2
    covariance = smooth(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    return luminance, (2 * covariance + 0.03**2) / (variances + 0.03**2)


def gmsd(images: Tensor, targets: Tensor) -> Tensor:
    """Gradient magnitude similarity deviation (M,) of Xue et al. 2014: 0 for equal pictures, larger is worse.

    On the luminance in [0, 1], halved by averaging; Prewitt gradients of the pixels that have all neighbours.
    """
    luma = torch.tensor([0.2989, 0.587, 0.114], dtype=torch.float64).view(1, 3, 1, 1)
    step = torch.tensor([[1.0, 0, -1]] * 3, dtype=torch.float64) / 3
    x, y = (
        F.conv2d(F.avg_pool2d(F.conv2d((pictures.double() + 1) / 2, luma), 2), torch.stack([step, step.T])[:, None])
        .square()
        .sum(1)
        .sqrt()
        for pictures in (images, targets)
    )
    similarity = (2 * x * y + GMSD_CONSTANT) / (x * x + y * y + GMSD_CONSTANT)
    return similarity.std(dim=(1, 2), correction=0)


@dataclass(frozen=True, eq=False)
class PosedView:
    """A picture with the geometry it shows."""

    image: Tensor  # (3, H, W)
    depth: Tensor  # (H, W) camera z in world units, inf where there is nothing
    region: Tensor  # (H, W) bool: the pixels that count
    camera: Cameras  # 1


def warp(source: PosedView, target: PosedView) -> tuple[Tensor, Tensor]:
    """The source's picture as seen from the target's camera (3, H, W), and where that is defined (H, W) bool.

    Each target pixel is lifted by the target's depth, projected into the source and read there bilinearly. It counts if
    it lies in the target's region, all four source pixels read lie in the source's, and the source sees the same point:
    depths within DEPTH_TOLERANCE.
    """
    position, depth = project(lift(target.depth, target.camera), source.camera)  # (H, W, 2), (H, W)
    known = torch.where(source.depth.isfinite(), source.depth, 0)
    channels = torch.cat([source.image, known[None], source.region[None]]).double()
    grid = torch.where(position.isfinite(), position * 2 - 1, -2)
    read = F.grid_sample(channels[None], grid[None], mode="bilinear", padding_mode="zeros", align_corners=False)[0]
    warped, source_depth, source_region = read[:-2], read[-2], read[-1]
    same_point = (source_depth - depth).abs() <= DEPTH_TOLERANCE
    return warped, target.region & (source_region > 1 - 1e-6) & same_point


def warped_psnr(source: PosedView, target: PosedView) -> float | None:
    """PSNR in dB of the source warped into the target, over the region both see; None if they share none."""
    warped, visible = warp(source, target)
    return masked_psnr(warped, target.image, visible)


def lift(depth: Tensor, camera: Cameras) -> Tensor:
    """World points (H, W, 3) float64 of a depth map (H, W) of camera z at pixel centres; not finite where it isn't."""
    y, x = torch.meshgrid(*((torch.arange(n, dtype=torch.float64) + 0.5) / n for n in depth.shape), indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], dim=-1) @ camera.intrinsics[0].inverse().mT
    rotation, origin = camera.cam2world[0, :3, :3], camera.cam2world[0, :3, 3]
    return (rays * depth.double()[..., None]) @ rotation.mT + origin


def project(points: Tensor, camera: Cameras) -> tuple[Tensor, Tensor]:
    """World points (H, W, 3) -> normalised image coordinates (H, W, 2) and camera z (H, W)."""
    rotation, origin = camera.cam2world[0, :3, :3], camera.cam2world[0, :3, 3]
    local = (points - origin) @ rotation
    image = local @ camera.intrinsics[0].mT
    return image[..., :2] / image[..., 2:], local[..., 2]


@dataclass(frozen=True)
class CameraErrors:
    """How far one camera is from another, all >= 0; angles as `Cameras.angles` reports them."""

    yaw_deg: float
    pitch_deg: float
    roll_deg: float
    focal_percent: float
    """Of the horizontal focal length."""


def camera_errors(predicted: Cameras, true: Cameras) -> list[CameraErrors]:
    """Errors of each predicted camera (B) against the true one (B)."""
    found, wanted = predicted.angles(), true.angles()
    angles = [
        turn(getattr(found, name) - getattr(wanted, name)) for name in ("yaw_deg", "pitch_deg", "roll_deg")
    ]  # 3 of (B,)
    focal = 100 * (predicted.intrinsics[:, 0, 0] / true.intrinsics[:, 0, 0] - 1).abs()
    return [CameraErrors(*row) for row in torch.stack([*angles, focal], dim=1).tolist()]


def turn(degrees: Tensor) -> Tensor:
    """Size of a turn, 0 to 180, whichever way round."""
    return ((degrees + 180) % 360 - 180).abs()
