"""A made-up capture in NeRSemble's exact layout: few cameras, tiny videos whose colours tell frame and camera."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import torch
from torch import Tensor

from nvb_core.cameras import Cameras
from training.data.nersemble.crops import moved_cameras
from training.data.nersemble.layout import read_rig
from training.data.nersemble.registration import Registration

SERIALS = ("222200037", "222200042", "220700191", "221501007")
YAWS, PITCHES = (-40.0, -10.0, 25.0, 60.0), (5.0, -10.0, 0.0, 12.0)
INTRINSICS = [[8200.0, 0.0, 1110.0], [0.0, 8190.0, 1590.0], [0.0, 0.0, 1.0]]
WIDTH, HEIGHT = 110, 160  # of 2200 × 3208


def to_head_space() -> Tensor:
    """(4, 4): from the made-up rig's world, in metres, to EG3D's space."""
    turn = Cameras.from_angles(20.0, -30.0, 10.0).cam2world[0, :3, :3]
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3], matrix[:3, 3] = 2.5 * turn, torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
    return matrix


def head_cameras() -> Cameras:
    """Where the cameras are in EG3D's space."""
    return Cameras.from_angles(YAWS, PITCHES, roll_deg=3.0)


def camera_params() -> dict[str, Any]:
    cam2world = torch.linalg.inv(to_head_space()) @ head_cameras().cam2world
    cam2world[:, :3, :3] *= 2.5
    poses = torch.linalg.inv(cam2world).tolist()
    return {"world_2_cam": dict(zip(SERIALS, poses, strict=True)), "intrinsics": INTRINSICS}


def colours(frame: int, camera: int) -> tuple[int, int, int]:
    """RGB of all of a picture."""
    return 40 + 15 * frame, 90, 40 + 40 * camera


def write_video(
    path: Path,
    camera: int,
    frames: int = 6,
    fps: float = 25,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    every_frame_whole: bool = False,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = ["-g", "1"] if every_frame_whole else []
    writer = imageio_ffmpeg.write_frames(path, size, fps=fps, quality=10, macro_block_size=2, output_params=options)
    writer.send(None)
    for frame in range(frames):
        writer.send(np.full((size[1], size[0], 3), colours(frame, camera), dtype=np.uint8).tobytes())
    writer.close()


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_participant(
    root: Path, participant: str = "017", sequences: Mapping[str, int] | tuple[str, ...] = ("EXP-1-head",)
) -> Path:
    """A participant with calibration and videos; colours are calibrated to be what they are."""
    folder = root / participant
    write_json(folder / "calibration" / "camera_params.json", camera_params())
    identity = np.eye(3, 4).tolist()
    write_json(folder / "calibration" / "color_calibration.json", dict.fromkeys(SERIALS, identity))
    for sequence in sequences:
        for camera in range(len(SERIALS)):
            write_video(video_path(folder, camera, sequence), camera)
    (folder / "sequences" / "BACKGROUND").mkdir(parents=True, exist_ok=True)
    return folder


def video_path(folder: Path, camera: int, sequence: str = "EXP-1-head") -> Path:
    return folder / "sequences" / sequence / "images" / f"cam_{SERIALS[camera]}.mp4"


def known_registration(root: Path, participant: str = "017") -> Registration:
    """What a perfect predictor would find."""
    rig = read_rig(root / participant / "calibration" / "camera_params.json")
    similarity = to_head_space() @ torch.linalg.inv(rig.centring)
    moved = torch.cat([moved_cameras(camera, similarity).cam2world for camera in rig.cameras.values()])
    assert torch.allclose(moved, head_cameras().cam2world, atol=1e-9)
    return Registration(similarity, SERIALS[:3], ((SERIALS[3], "too far from the front"),), 0.5, 0.01)
