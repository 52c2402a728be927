from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nvb_core import align
from nvb_core.align import CropBox, crop_batch, crop_cameras, crop_image, default_box, refine_box
from nvb_core.cameras import FOCAL, Cameras
from nvb_core.detect import FaceBox
from nvb_core.errors import CameraError, ConfigError, ImageError

F64 = torch.float64
QUICK = settings(deadline=None, max_examples=40)
POINTS = torch.tensor([[0, 0, 0], [0.1, 0, 0], [0, 0.1, 0], [-0.05, 0.12, 0.2], [0.15, -0.1, -0.1]], dtype=F64)


def close(actual: Tensor, expected: object, atol: float = 1e-6) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), atol=atol, rtol=0)


def number(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False, width=32)


boxes = st.builds(CropBox, number(-50, 500), number(-50, 500), number(20, 900), number(-90, 90))


def coordinates(height: int, width: int) -> Tensor:
    """An image (3, H, W) whose channels are its own pixel centres x, y and a constant, scaled to [-1, 1]."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack((x, y, torch.full_like(x, 50))) / 100 - 1


def photo_positions(box: CropBox, crop_positions: Tensor) -> Tensor:
    """Pixel positions (..., 2) in the photo of normalised positions in the crop: a slow, obvious reference."""
    offset = (crop_positions - 0.5) * box.size_px
    r = math.radians(box.roll_deg)
    right, down = (math.cos(r), math.sin(r)), (-math.sin(r), math.cos(r))  # the crop's axes, turned clockwise by roll
    x = box.center_x + offset[..., 0] * right[0] + offset[..., 1] * down[0]
    y = box.center_y + offset[..., 0] * right[1] + offset[..., 1] * down[1]
    return torch.stack((x, y), dim=-1)


def pixel_centres(size: int) -> Tensor:
    steps = (torch.arange(size, dtype=F64) + 0.5) / size
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack((x, y), dim=-1)


# ---- pixels ----


def test_crop_on_the_pixel_grid_copies_pixels() -> None:
    image = torch.rand(3, 40, 60)
    close(crop_image(image, CropBox(25, 22, 16), 16), image[:, 14:30, 17:33], 1e-5)
    batch = crop_batch(image[None].repeat(2, 1, 1, 1), [CropBox(25, 22, 16), CropBox(40, 20, 16)], 16)
    close(batch[0], image[:, 14:30, 17:33], 1e-5)
    close(batch[1], image[:, 12:28, 32:48], 1e-5)


@pytest.mark.parametrize("roll", [0.0, 30.0, -75.0])
@pytest.mark.parametrize(("side", "size"), [(40.0, 32), (60.0, 20), (90.0, 8), (12.5, 32)])
def test_crop_positions_are_exact(side: float, size: int, roll: float) -> None:
    # Every pixel tells where it came from; torch's bicubic interpolation is off by up to 0.05 on a ramp.
    box = CropBox(100.25, 90.5, side, roll)
    positions = crop_image(coordinates(180, 200), box, size)[:2].movedim(0, -1).add(1).mul(100)
    expected = photo_positions(box, pixel_centres(size)).float()
    close(positions, expected, 0.1)


def test_positive_roll_is_undone_by_turning_the_crop_counterclockwise() -> None:
    image = torch.zeros(3, 64, 64)
    image[:, 30:34, 50:54] = 1  # right of the centre: where a picture rolled by 90° clockwise shows its top
    crop = crop_image(image, CropBox(32, 32, 64, 90), 64)
    close(crop[:, 10:14, 30:34], torch.ones(3, 4, 4), 1e-4)


def test_outside_repeats_the_edge() -> None:
    image = torch.rand(3, 20, 30)
    crop = crop_image(image, CropBox(0, 10, 40), 40)
    close(crop[:, 10:30, 20:], image[:, :, :20], 1e-5)
    close(crop[:, 10:30, :20], image[:, :, :1].expand(3, 20, 20), 1e-5)
    close(crop[:, :10, 20:], image[:, :1, :20].expand(3, 10, 20), 1e-5)


@pytest.mark.parametrize("scale", [1.6, 2, 3.3, 8, 21])
def test_shrinking_is_antialiased(scale: float) -> None:
    # Stripes far finer than the crop's pixels must come out grey, not as moiré.
    stripes = (torch.arange(400) % 2 * 2.0 - 1).expand(3, 400, 400)
    crop = crop_image(stripes, CropBox(200, 200, 16 * scale), 16)
    assert crop.abs().max() < (0.5 if scale < 4 else 0.2)


@pytest.mark.parametrize("scale", [2, 4, 10, 16])
def test_shrinking_by_whole_factors_is_the_area_average(scale: int) -> None:
    image = torch.rand(3, 160, 160)
    crop = crop_image(image, CropBox(80, 80, 10 * scale), 10)
    low = 80 - 5 * scale
    region = image[:, low : low + 10 * scale, low : low + 10 * scale]
    average = torch.nn.functional.avg_pool2d(region, scale)
    # Samples between pixels reach a little into their neighbours.
    close(crop, average, 0.25 if scale == 2 else 0.15)
    close(crop.mean(), average.mean(), 5e-3)


def test_sizes_that_the_shrinking_factor_does_not_divide() -> None:
    box = CropBox(60, 50, 93)
    inside = crop_image(coordinates(101, 121), box, 10)[:2, 1:-1, 1:-1].movedim(0, -1).add(1).mul(100)
    close(inside, photo_positions(box, pixel_centres(10))[1:-1, 1:-1].float(), 0.15)


def test_sharp_edges_stay_in_range() -> None:
    step = torch.where(torch.arange(50) < 25, -1.0, 1.0).expand(3, 40, 50)
    crop = crop_image(step, CropBox(25, 20, 16), 40)  # bicubic weights alone go beyond both sides
    assert (float(crop.min()), float(crop.max())) == (-1, 1)


def test_constant_images_stay_constant() -> None:
    for box in (CropBox(5, 5, 300, 20), CropBox(0, 0, 3), CropBox(40, 1, 10, -45)):
        close(crop_image(torch.full((3, 30, 50), 0.3), box, 24), torch.full((3, 24, 24), 0.3), 1e-5)


def test_batches_crop_each_image_by_its_own_box() -> None:
    images = torch.rand(3, 3, 50, 70)
    three = [CropBox(30, 20, 24), CropBox(40, 25, 30, 15), CropBox(10, 40, 20, -60)]
    batch = crop_batch(images, three, 24)
    assert batch.shape == (3, 3, 24, 24)
    for image, box, crop in zip(images, three, batch, strict=True):
        close(crop_batch(image[None], [box], 24)[0], crop, 1e-6)


def test_large_boxes_of_a_batch_are_antialiased() -> None:
    stripes = (torch.arange(300) % 2 * 2.0 - 1).expand(
        1, 3, 300, 300
    )  # of one pixel: their mean is all that can be seen
    boxes = [CropBox(150, 150, 200), CropBox(140, 150, 190, 10)]
    batch = crop_batch(stripes.repeat(2, 1, 1, 1), boxes, 32)
    assert batch.shape == (2, 3, 32, 32)
    assert batch.abs().max() < 0.2
    close(batch[0], crop_image(stripes[0], boxes[0], 32), 1e-6)
    assert crop_batch(stripes, [CropBox(150, 150, 32)], 32).abs().max() > 0.9
    assert crop_batch(stripes.repeat(2, 1, 1, 1), [CropBox(150, 150, 32), boxes[0]], 32)[1].abs().max() < 0.2


def test_boxes_of_a_batch_are_antialiased_beyond_one_and_a_half_pixels() -> None:
    image = torch.rand(3, 100, 100)
    for side, antialiased in ((48.0, False), (49.0, True)):
        box = CropBox(50, 50, side)
        same = torch.allclose(crop_batch(image[None], [box], 32)[0], crop_image(image, box, 32), atol=1e-6)
        assert same == antialiased


@pytest.mark.parametrize("box", [CropBox(-200, 10, 50), CropBox(10, 70, 50), CropBox(1e9, 10, 50)])
def test_boxes_outside_the_image_are_refused(box: CropBox) -> None:
    with pytest.raises(ImageError, match=r"CropBox\(.*\) lies outside the image of 40×30 pixels"):
        crop_image(torch.zeros(3, 30, 40), box, 16)


def test_a_corner_in_the_image_is_enough() -> None:
    image = torch.full((3, 30, 40), 0.5)
    assert crop_image(image, CropBox(-42, 15, 60, 45), 16).shape == (3, 16, 16)
    with pytest.raises(ImageError):
        crop_image(image, CropBox(-43, 15, 60, 45), 16)


@pytest.mark.parametrize("values", [(0, 0, 0), (0, 0, -5), (math.nan, 0, 5), (0, math.inf, 5), (0, 0, 5, math.nan)])
def test_boxes_are_checked(values: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=r"CropBox\(.*\) must be finite, with size_px above 0"):
        CropBox(*values)


# ---- cameras ----


@QUICK
@given(boxes, number(-60, 60), number(-40, 40), number(-45, 45), number(8, 60))
def test_crop_cameras_project_to_the_crops_pixels(
    box: CropBox, yaw: float, pitch: float, roll: float, fov: float
) -> None:
    width, height = 480, 360
    cameras = Cameras.from_angles([yaw, 0.0], pitch, roll, fov_deg=fov)
    intrinsics = cameras.intrinsics + torch.tensor([[0, 0, 0.04], [0, 0, -0.07], [0, 0, 0]])
    intrinsics[:, 1, 1] = intrinsics[:, 0, 0] * width / height  # square pixels
    whole = Cameras(cameras.cam2world, intrinsics)
    in_crop = crop_cameras(whole, box, width, height).project(POINTS)
    in_photo = whole.project(POINTS) * torch.tensor([width, height])
    close(photo_positions(box, in_crop), in_photo)


def test_crop_cameras_without_roll_allow_any_pixels() -> None:
    whole = Cameras.from_angles(20, 10, fov_deg=30)  # fx = fy of a 300 × 100 picture: pixels that are not square
    box = CropBox(140, 60, 80)
    in_crop = crop_cameras(whole, box, 300, 100).project(POINTS)
    close(photo_positions(box, in_crop), whole.project(POINTS) * torch.tensor([300, 100]))
    with pytest.raises(CameraError, match="crop with roll 5° needs square pixels"):
        crop_cameras(whole, CropBox(140, 60, 80, 5), 300, 100)
    turned = crop_cameras(whole, CropBox(140, 60, 80, -360), 300, 100)
    close(turned.to_eg3d(), crop_cameras(whole, box, 300, 100).to_eg3d(), 1e-12)
    with pytest.raises(CameraError, match="needs square pixels"):
        crop_cameras(whole, CropBox(140, 60, 80, 5), 200, 201)


def test_the_whole_image_is_its_own_crop() -> None:
    whole = Cameras.from_angles([20, -5], 10, 3)
    assert torch.equal(crop_cameras(whole, CropBox(80, 80, 160), 160, 160).to_eg3d(), whole.to_eg3d())


def test_the_crop_undoes_its_roll() -> None:
    rolled = Cameras.from_angles([10, -20], 5, 15)
    close(crop_cameras(rolled, CropBox(80, 80, 100, 15), 160, 160).angles().roll_deg, [0, 0])


def test_a_margin_is_cut_off() -> None:
    whole = Cameras.from_angles(10, 5, fov_deg=math.degrees(2 * math.atan(0.5 / (FOCAL / 1.25))))
    close(crop_cameras(whole, CropBox(80, 80, 128), 160, 160).to_eg3d(), Cameras.from_angles(10, 5).to_eg3d(), 1e-12)


# ---- alignment ----


@pytest.fixture
def cropped(monkeypatch: pytest.MonkeyPatch) -> list[CropBox]:
    """The boxes that are cropped, in order."""
    boxes: list[CropBox] = []

    def crop(image: Tensor, box: CropBox, size: int) -> Tensor:
        boxes.append(box)
        return crop_image(image, box, size)

    monkeypatch.setattr(align, "crop_image", crop)
    return boxes


@pytest.mark.parametrize("roll", [0.0, 20.0, -35.0])
@pytest.mark.parametrize("start", [CropBox(300, 260, 150), CropBox(250, 230, 240, 10)])
def test_one_exact_prediction_aligns_the_crop(roll: float, start: CropBox, cropped: list[CropBox]) -> None:
    width, height, side, center = 600, 500, 180.0, (280.0, 240.0)
    aligned = CropBox(*center, side, roll)
    # The photo's camera, such that the crop `aligned` has the standard intrinsics and no roll.
    intrinsics = torch.tensor(
        [[[FOCAL * side / width, 0, center[0] / width], [0, FOCAL * side / height, center[1] / height], [0, 0, 1]]]
    )
    whole = Cameras(Cameras.from_angles(25, -10, roll).cam2world, intrinsics)
    image = torch.zeros(3, height, width)

    def oracle(crop: Tensor) -> Cameras:
        return crop_cameras(whole, cropped[-1], width, height)

    box = refine_box(image, start, oracle, 32, iterations=1)
    camera = crop_cameras(whole, box, width, height)
    close(camera.to_eg3d(), Cameras.from_angles(25, -10).to_eg3d(), 1e-4)
    for got, wanted in zip(vars(box).values(), vars(aligned).values(), strict=True):
        assert got == pytest.approx(wanted, rel=1e-4, abs=1e-3)
    again = refine_box(image, box, oracle, 32, iterations=2)
    assert vars(again) == pytest.approx(vars(box))


def predicting(fx: float = FOCAL, cx: float = 0.5, cy: float = 0.5, roll_deg: float = 0.0) -> Cameras:
    intrinsics = torch.tensor([[[fx, 0, cx], [0, fx, cy], [0, 0, 1]]], dtype=F64)
    return Cameras(Cameras.from_angles(0, 0, roll_deg).cam2world, intrinsics)


START = CropBox(100, 80, 40)


@pytest.mark.parametrize(
    ("camera", "expected"),
    [
        (predicting(), START),
        (predicting(fx=100 * FOCAL), CropBox(100, 80, 80)),
        (predicting(fx=FOCAL / 100), CropBox(100, 80, 20)),
        (predicting(cx=9.5), CropBox(120, 80, 40)),
        (predicting(cx=-2.5, cy=4.5), CropBox(100 - 12, 80 + 16, 40)),
        (predicting(roll_deg=170), CropBox(100, 80, 40, 45)),
        (predicting(roll_deg=-60), CropBox(100, 80, 40, -45)),
    ],
)
def test_nonsense_predictions_are_limited(camera: Cameras, expected: CropBox) -> None:
    box = refine_box(torch.zeros(3, 200, 200), START, lambda crop: camera, 16, iterations=1)
    assert vars(box) == pytest.approx(vars(expected))


def test_repeated_nonsense_stays_inside_the_image() -> None:
    for cx, cy, corner in ((9, -9, (100, 0)), (-9, 9, (0, 70))):
        camera = predicting(cx=cx, cy=cy)
        box = refine_box(torch.zeros(3, 70, 100), CropBox(60, 50, 80), lambda crop, c=camera: c, 16, 5)
        assert (box.center_x, box.center_y) == corner


def test_zoom_is_of_the_mean_focal_length() -> None:
    intrinsics = predicting().intrinsics
    intrinsics[0, 0, 0] *= 1.44
    camera = Cameras(predicting().cam2world, intrinsics)
    box = refine_box(torch.zeros(3, 200, 200), START, lambda crop: camera, 16, iterations=1)
    assert vars(box) == pytest.approx(vars(CropBox(100, 80, 48)))


def test_the_predictor_sees_one_crop_of_the_asked_size_per_iteration() -> None:
    shapes = []

    def predict(crop: Tensor) -> Cameras:
        shapes.append(tuple(crop.shape))
        return predicting()

    refine_box(torch.zeros(3, 99, 120), START, predict, 24)
    assert shapes == [(1, 3, 24, 24)] * 2


def test_shift_follows_the_rolled_crops_axes() -> None:
    rolled = CropBox(100, 80, 40, 90)  # the crop's right is the photo's down
    box = refine_box(torch.zeros(3, 200, 200), rolled, lambda crop: predicting(cx=0.75), 16, iterations=1)
    assert vars(box) == pytest.approx(vars(CropBox(100, 90, 40, 90)))


def test_default_box_turns_with_the_face() -> None:
    upright, turned = default_box(FaceBox(100, 50, 40)), default_box(FaceBox(100, 50, 40, 90))
    assert vars(upright) == pytest.approx(vars(CropBox(120, 66, 60)))
    assert vars(turned) == pytest.approx(vars(CropBox(124, 70, 60, 90)))
