"""Face options of `nvb-face render`: where the faces of a photo are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..align import CropBox, default_box
from ..detect import FaceBox, find_faces
from ..errors import ConfigError
from .views import parse_numbers


@dataclass(frozen=True)
class FaceOptions:
    """Where the face is; the default is to look for it."""

    face: str = "largest"
    """Which of the found faces: largest, all, or a number counting from 0, largest first."""
    box: str | None = None
    """Where the face is instead of looking: "x,y,size" in pixels, top left and side of a square from brows to chin."""
    center: bool = False
    """Take the photo's largest central square for the face, instead of looking."""
    refine: bool = True
    """Whether the model corrects the crop's position, size and tilt."""


@dataclass(frozen=True)
class FacePlan:
    """Checked face options."""

    face: str | int
    box: FaceBox | None
    center: bool
    refine: bool

    def boxes(self, pixels: Tensor) -> list[CropBox]:
        """First crops of the chosen faces of a photo (3, H, W). Raises FaceNotFoundError; ConfigError for a bad box."""
        height, width = pixels.shape[-2:]
        if self.center:
            return [CropBox(width / 2, height / 2, min(width, height))]
        if self.box is None:
            return [default_box(face) for face in find_faces(pixels, self.face)]
        if not (self.box.x + self.box.size_px <= width and self.box.y + self.box.size_px <= height):
            shown = f"{self.box.x:g},{self.box.y:g},{self.box.size_px:g}"
            raise ConfigError(f"--box {shown} leaves the photo of {width}×{height} pixels; give x,y,size inside it")
        return [default_box(self.box)]


def plan_faces(options: FaceOptions) -> FacePlan:
    """Check the options. Raises ConfigError."""
    chosen = [
        name
        for name, given in (
            ("--face", options.face != "largest"),
            ("--box", options.box is not None),
            ("--center", options.center),
        )
        if given
    ]
    if len(chosen) > 1:
        raise ConfigError(f"{' and '.join(chosen)} exclude each other; drop one of them")
    is_number = options.face.isdecimal() and len(options.face) < 9
    face: str | int = int(options.face) if is_number else options.face
    if isinstance(face, str) and face not in ("largest", "all"):
        raise ConfigError(f"--face {options.face!r:.40} must be largest, all or a number from 0 up")
    return FacePlan(face, None if options.box is None else _parse_box(options.box), options.center, options.refine)


def _parse_box(text: str) -> FaceBox:
    values = parse_numbers(text, "--box", "120,80,200")
    if len(values) != 3:
        raise ConfigError(f"--box {text!r:.60} has {len(values)} numbers; expected 3: x,y,size")
    x, y, size = values
    if x < 0 or y < 0 or size < 1:
        raise ConfigError(f"--box {text!r:.60} must have x and y of at least 0 and a size of at least 1 pixel")
    return FaceBox(x, y, size)
