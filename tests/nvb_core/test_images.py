from __future__ import annotations

import hashlib
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from nvb_core import images
from nvb_core.errors import ImageError
from nvb_core.images import load_image, to_pil, to_uint8

W, H = 24, 20
RAMP = np.stack(np.broadcast_arrays(np.arange(W) * 10, np.arange(H)[:, None] * 12, 77), axis=-1).astype(np.uint8)


def expected(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)


def close(actual: torch.Tensor, wanted: torch.Tensor, atol: float = 1e-6) -> None:
    torch.testing.assert_close(actual, wanted, atol=atol, rtol=0)


def png(width: int, height: int, bits: int, color_type: int, rows: bytes) -> bytes:
    """A PNG by hand, for depths that Pillow doesn't write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


# ---- what loads ----


def test_rgb_png_is_exact_and_hashed(tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    Image.fromarray(RAMP).save(file)
    loaded = load_image(str(file))
    close(loaded.pixels, expected(RAMP))
    assert (loaded.pixels.dtype, loaded.pixels.is_contiguous(), loaded.path) == (torch.float32, True, file)
    assert loaded.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_every_level_has_its_very_value(tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(levels).convert("RGB").save(tmp_path / "levels.png")
    values = torch.from_numpy(levels.astype(np.float32) / 255).mul(2).sub(1)
    assert torch.equal(load_image(tmp_path / "levels.png").pixels, values.expand(3, 16, 16))


def test_large_photos_take_little_memory(tmp_path: Path) -> None:
    Image.new("RGB", (1500, 1000)).save(tmp_path / "large.png")
    load_image(tmp_path / "large.png")  # what Pillow imports
    tracemalloc.start()
    pixels = load_image(tmp_path / "large.png").pixels
    peak = tracemalloc.get_traced_memory()[1]  # without what PyTorch and Pillow hold
    tracemalloc.stop()
    assert peak < 1.6 * pixels.nbytes


@pytest.mark.parametrize("suffix", ["jpg", "webp", "bmp", "tif", "ppm"])
def test_common_formats(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"photo.{suffix}"
    smooth = Image.fromarray(RAMP).resize((96, 80), Image.Resampling.BICUBIC)
    smooth.save(file, quality=95)
    close(load_image(file).pixels, expected(np.asarray(smooth)), atol=0.1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    turns = {1: 0, 2: 0, 3: 2, 4: 2, 5: 3, 6: 1, 7: 1, 8: 3}  # stored = upright turned counterclockwise, then mirrored
    stored = np.rot90(RAMP, turns[orientation])
    if orientation in (2, 4, 5, 7):
        stored = stored[:, ::-1]
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "turned.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(file, exif=exif)
    close(load_image(file).pixels, expected(RAMP))


def test_alpha_is_laid_over_mid_grey(tmp_path: Path) -> None:
    alpha = np.full((H, W, 1), 255, np.uint8)
    alpha[:, : W // 2] = 0
    file = tmp_path / "alpha.png"
    Image.fromarray(np.concatenate((RAMP, alpha), axis=-1)).save(file)
    pixels = load_image(file).pixels
    close(pixels[:, :, : W // 2], torch.zeros(3, H, W // 2), atol=0.005)
    close(pixels[:, :, W // 2 :], expected(RAMP)[:, :, W // 2 :])


def test_transparent_palette_entry_is_laid_over_mid_grey(tmp_path: Path) -> None:
    image = Image.new("P", (W, H), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.paste(0, (0, 0, W, 5))
    file = tmp_path / "palette.gif"
    image.save(file, transparency=0)
    pixels = load_image(file).pixels
    close(pixels[:, :5], torch.zeros(3, 5, W), atol=0.005)
    close(pixels[:, 5:], torch.tensor([-1.0, 1.0, -1.0])[:, None, None].expand(3, H - 5, W))


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_becomes_three_equal_channels(tmp_path: Path, mode: str) -> None:
    file = tmp_path / "grey.png"
    Image.fromarray(np.where(RAMP[..., 0] > 100, 255, 0).astype(np.uint8)).convert(mode).save(file)
    pixels = load_image(file).pixels
    close(pixels, torch.from_numpy(np.where(RAMP[..., 0] > 100, 1.0, -1.0)).float().expand(3, H, W))


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, W * H).astype(np.uint16).reshape(H, W)
    file = tmp_path / "grey16.png"
    Image.fromarray(values).save(file)
    close(load_image(file).pixels, torch.from_numpy(values / 32767.5 - 1).float().expand(3, H, W))


@pytest.mark.parametrize(("color_type", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_sixteen_bit_colour_and_alpha(tmp_path: Path, color_type: int, channels: int) -> None:
    pixel = np.full(channels, 40_000, dtype=">u2")
    if channels in (2, 4):
        pixel[-1] = 65_535  # opaque
    file = tmp_path / "deep.png"
    file.write_bytes(png(W, H, 16, color_type, (b"\0" + pixel.tobytes() * W) * H))
    close(load_image(file).pixels, torch.full((3, H, W), 40_000 / 32_767.5 - 1), atol=1 / 127)


def test_cmyk_jpeg(tmp_path: Path) -> None:
    file = tmp_path / "print.jpg"
    Image.new("RGB", (W, H), (200, 30, 60)).convert("CMYK").save(file, quality=100)
    close(load_image(file).pixels[:, 5, 5], torch.tensor([200, 30, 60]) / 127.5 - 1, atol=0.03)


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (W, H), color) for color in ("red", "blue")]
    file = tmp_path / "moving.webp"
    frames[0].save(file, save_all=True, append_images=frames[1:], lossless=True)
    close(load_image(file).pixels[:, 3, 3], torch.tensor([1.0, -1.0, -1.0]))


@pytest.mark.parametrize("side", [16, 24])
def test_tiny_images_load(tmp_path: Path, side: int) -> None:
    file = tmp_path / "tiny.png"
    Image.new("RGB", (side, side)).save(file)
    assert load_image(file).pixels.shape == (3, side, side)


# ---- what doesn't ----


def rejected(path: Path, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        load_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_too_small(tmp_path: Path) -> None:
    file = tmp_path / "small.png"
    Image.new("RGB", (200, 15)).save(file)
    rejected(file, "200×15 pixels; each side must be at least 16")


def test_missing_folder_and_empty(tmp_path: Path) -> None:
    rejected(tmp_path / "nowhere.png", "cannot be read .*No such file")
    rejected(tmp_path, "not a file")
    (tmp_path / "empty.png").touch()
    rejected(tmp_path / "empty.png", "empty file")


@pytest.mark.parametrize("content", [b"hello, I am a text", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"GIF89a"])
def test_other_files(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "text.jpg"
    file.write_bytes(content)
    rejected(file, "not a readable image .*give a JPEG, PNG")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "gif"])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_truncated_files(tmp_path: Path, suffix: str, kept: float) -> None:
    file = tmp_path / f"cut.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * kept)])
    rejected(file, "not a readable image")


def test_failures_of_the_machine_are_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "photo.png"
    Image.fromarray(RAMP).save(file)

    def fail_by(error: Exception) -> None:
        def fail(_: Image.Image) -> np.ndarray:
            raise error

        monkeypatch.setattr(images, "_unit_rgb", fail)

    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")):
        fail_by(error)
        rejected(file, "not enough memory for it")
    fail_by(OSError(24, "Too many open files"))
    rejected(file, r"cannot be read \(Too many open files\)")


@pytest.mark.parametrize("side", [11_000, 30_000])
def test_decompression_bombs_are_refused_by_their_header(tmp_path: Path, side: int) -> None:
    file = tmp_path / "bomb.png"
    file.write_bytes(png(side, side, 8, 2, b"\0"))
    rejected(file, "more than 120 megapixels")


def test_huge_files_are_not_read(tmp_path: Path) -> None:
    file = tmp_path / "huge.png"
    with file.open("wb") as stream:
        stream.truncate(513 * 2**20)  # sparse
    rejected(file, "larger than 512 MiB")


def test_float_pixels_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "float.tif"
    Image.fromarray(np.zeros((H, W), np.float32)).save(file)
    rejected(file, "floating-point")


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["jpg", "png", "webp", "gif", "tif"]), st.data())
def test_damaged_files_load_or_raise_image_error(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    file = tmp_path / f"photo.{suffix}"
    Image.fromarray(RAMP).save(file)
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content)
    try:
        pixels = load_image(file).pixels
    except ImageError:
        return
    assert pixels.shape[0] == 3
    assert pixels.abs().max() <= 1


# ---- back to 8 bits ----


def test_eight_bit_values_survive_the_round_trip() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    assert np.array_equal(to_uint8(expected(values)), values)
    assert np.array_equal(np.asarray(to_pil(expected(values))), values)


def test_to_uint8_rounds_clips_and_keeps_batches() -> None:
    images = torch.tensor([-2.0, -1.0, -0.001, 0.001, 1.0, 3.0]).reshape(2, 1, 1, 3).expand(2, 3, 1, 3)
    result = to_uint8(images)
    assert result.shape == (2, 1, 3, 3)
    assert result[..., 0].tolist() == [[[0, 0, 127]], [[128, 255, 255]]]


def test_to_pil_is_rgb_of_the_same_size() -> None:
    picture = to_pil(torch.zeros(3, H, W))
    assert (picture.mode, picture.size) == ("RGB", (W, H))
