"""The pack's workflows, where ComfyUI's template browser asks for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from aiohttp import web

WORKFLOWS = Path(__file__).parents[1] / "workflows"


def serve_workflows() -> None:
    """Answer for each file of `workflows/`.

    ComfyUI lists the workflows of five folder names but serves only the first one that a pack has, and in a clone of
    the repository `examples/` comes before `workflows/` (`add_routes` of app/custom_node_manager.py). Routes of whole
    paths are looked up before its folders.
    """
    from server import PromptServer

    pack = quote(WORKFLOWS.parent.name)
    for path in sorted(WORKFLOWS.iterdir()):
        PromptServer.instance.routes.get(f"/workflow_templates/{pack}/{quote(path.name)}")(_sender(path))


def _sender(path: Path) -> Callable[[web.Request], Awaitable[web.FileResponse]]:
    async def send(request: web.Request) -> web.FileResponse:
        from aiohttp import web

        return web.FileResponse(path)

    return send
