"""NVB-Face as a ComfyUI node pack. Importing it is cheap; `nodes` holds the nodes, `nvb_core` all that they do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> ComfyExtension:
    """What ComfyUI calls for the nodes."""
    from .nodes import NVBFaceExtension
    from .nodes.templates import serve_workflows

    serve_workflows()
    return NVBFaceExtension()
