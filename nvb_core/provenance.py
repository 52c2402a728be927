"""Where a generated image comes from: a record that travels inside every PNG and MP4.

PNG text chunks: `nvb-face` holds the record as JSON (read it back with `read_png`), `Software` and `Comment` say
"AI-generated" in plain words, and `XML:com.adobe.xmp` holds the IPTC digital source type that other programs look for.
MP4: the same record as JSON in the `comment` tag, the plain words in `description`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from .errors import ImageError

GENERATOR = "NVB-Face"
PNG_KEY = "nvb-face"
DEGRADED_KEY, GRID_KEY = "nvb-face-degradation", "nvb-face-grid"
"""PNG text chunks with the parameters of a picture that `nvb-face degrade` made, and of its overview."""
DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_XMP = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 Iptc4xmpExt:DigitalSourceType="{DIGITAL_SOURCE_TYPE}"/>
</rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


@dataclass(frozen=True)
class CameraRecord:
    """The camera of one image in the frame `face`: degrees, and world units of the head."""

    yaw_deg: float
    pitch_deg: float
    roll_deg: float
    radius: float
    fov_deg: float


@dataclass(frozen=True)
class Provenance:
    """What made an image, and from what."""

    model: str
    """Name of the model, for example `mini`."""
    weights_sha256: str
    """Hash of the weights file."""
    version: str
    """Version of this program."""
    seed: int
    steps: int
    eta: float
    source: str
    """File name of the input photo, without its folder."""
    source_sha256: str
    """Hash of the input photo's file."""
    fit_steps: int = 0
    """Gradient steps that fitted the face's 3D grid to the photo; records of older versions have none."""
    camera: CameraRecord | None = None
    """None for files that show several views."""
    generator: str = GENERATOR
    ai_generated: bool = True

    @property
    def statement(self) -> str:
        """The record's gist for people."""
        return (
            f"AI-generated image: {self.generator} {self.version}, model {self.model}, seed {self.seed}, "
            f"from {self.source} (sha256 {self.source_sha256[:16]}). Not a photograph."
        )

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Provenance:
        """Inverse of `to_json`. Raises ValueError on anything else."""
        values: Any = json.loads(text)
        if not isinstance(values, dict) or {"fit_steps", *values} != {field.name for field in fields(cls)}:
            raise ValueError("not a provenance record")
        camera = values.pop("camera")
        return cls(**values, camera=None if camera is None else CameraRecord(**camera))


def source_name(path: Path) -> str:
    """A photo's file name as a record holds it: bytes in it that aren't UTF-8 become question marks."""
    return path.name.encode(errors="replace").decode()


def png_info(provenance: Provenance) -> PngImagePlugin.PngInfo:
    """Text chunks for `Image.save(..., pnginfo=...)`."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Software", f"{provenance.generator} {provenance.version} (AI-generated image)")
    info.add_itxt("Comment", provenance.statement)
    info.add_itxt(PNG_KEY, provenance.to_json())
    info.add_itxt("XML:com.adobe.xmp", _XMP)
    return info


def read_png(path: str | Path) -> Provenance | None:
    """The record inside a PNG, or None if it carries none. Raises ImageError if either can't be read."""
    try:
        with Image.open(path) as image:
            text = image.info.get(PNG_KEY)
        return None if text is None else Provenance.from_json(text)
    except (OSError, ValueError, TypeError) as error:
        raise ImageError(
            f"{path}: can't read its provenance record ({error}); pass a PNG written by NVB-Face"
        ) from error


def mp4_arguments(provenance: Provenance) -> list[str]:
    """Output arguments for ffmpeg that tag an MP4."""
    tags = {"comment": provenance.to_json(), "description": provenance.statement}
    return [argument for key, value in tags.items() for argument in ("-metadata", f"{key}={value}")]
