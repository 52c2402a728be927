"""Draw the pictures of the pack in a real ComfyUI: thumbnails of the workflows, help pages' pictures of the nodes.

python -m tests.comfyui.pictures thumbnails nodes
"""

from __future__ import annotations

import io
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from playwright.sync_api import FloatRect

from nvb_core.staging import write_atomically
from tests.comfyui.browser import Frontend, find_chromium, open_frontend
from tests.comfyui.client import Client
from tests.comfyui.provision import PACK, find_comfyui
from tests.comfyui.server import WORKFLOWS, running_server

SIDE_PX = 512
MAX_PICTURES = 9
RUN_TIMEOUT_S = 1800
IN_README, UPSCALED, FOREIGN = "01 ", "05 ", "08 "
"""The workflow on the README's screenshot; the one whose upscaler, here, is one that has learned nothing; and the one
for models that aren't here, which shows its graph."""
JPEG: dict[str, Any] = {"format": "JPEG", "quality": 88, "optimize": True}
NODE_MARGIN_PX = 24
"""With room for the name of the pack above the node."""
_ADD_NODE = """type => {
  window.app.graph.clear();
  const node = window.LiteGraph.createNode(type);
  window.app.graph.add(node);
  const [width, height] = node.computeSize();
  node.setSize([Math.max(width, node.size[0], 280), Math.max(height, node.size[1])]);
  const canvas = window.app.canvas;
  canvas.ds.scale = 1;
  canvas.ds.offset = [400, 150];
  canvas.setDirty(true, true);
}"""
_NODE_BOX = """() => {
  const canvas = window.app.canvas, [x, y, width, height] = window.app.graph._nodes[0].getBounding();
  const page = canvas.canvas.getBoundingClientRect();
  return [page.x + x + canvas.ds.offset[0], page.y + y + canvas.ds.offset[1], width, height];
}"""


def thumbnail(pictures: Sequence[np.ndarray]) -> Image.Image:
    """Pictures (H, W, 3) uint8 of one size as a square of tiles: some of them, evenly chosen, if they are many."""
    count = min(len(pictures), MAX_PICTURES)
    chosen = [pictures[i * len(pictures) // count] for i in range(count)]
    height, width = pictures[0].shape[:2]
    columns = math.ceil(math.sqrt(count * height / width))
    sheet = Image.new("RGB", (columns * width, math.ceil(count / columns) * height), "white")
    for index, picture in enumerate(chosen):
        sheet.paste(Image.fromarray(picture[..., :3]), (index % columns * width, index // columns * height))
    return ImageOps.pad(sheet, (SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS, color="white")


def draw_thumbnails(frontend: Frontend) -> None:
    """Run each workflow on our photo; write what its last node shows beside it, and a screenshot for the README."""
    client = Client(frontend.server)
    for path in sorted(WORKFLOWS.glob("*.json")):
        frontend.open()
        frontend.drop_workflow(path)
        if path.name.startswith(FOREIGN):
            frontend.fit()
            _save(thumbnail([np.asarray(_screenshot(frontend))]), path.with_suffix(".jpg"), **JPEG)
            continue
        record = client.wait_for_history(frontend.press_run(), RUN_TIMEOUT_S)
        if record["status"]["status_str"] != "success":
            raise frontend.server.error(f"{path.name}: {record['status']}")
        shown = _still(record["outputs"])
        node = min(shown) if path.name.startswith(UPSCALED) else max(shown)
        pictures = [client.picture(entry) for entry in record["outputs"][str(node)]["images"]]
        _save(thumbnail(pictures), path.with_suffix(".jpg"), **JPEG)
        if path.name.startswith(IN_README):
            frontend.wait_for_pictures(shown, timeout_s=60)
            _save(_screenshot(frontend), PACK / "examples" / "comfyui.jpg", **JPEG)


def _still(outputs: dict[str, Any]) -> list[int]:
    """Ids of the nodes that show still pictures."""
    shown = {node: output for node, output in outputs.items() if node.isdigit() and output.get("images")}
    return [int(node) for node, output in shown.items() if not output.get("animated")]


def _screenshot(frontend: Frontend, clip: FloatRect | None = None) -> Image.Image:
    return Image.open(io.BytesIO(frontend.page.screenshot(clip=clip))).convert("RGB")


def draw_nodes(frontend: Frontend) -> None:
    """Write a picture of each of the pack's nodes, alone on the canvas, beside its help page."""
    for page in sorted((PACK / "web" / "docs").glob("NVB*.md")):
        frontend.page.evaluate(_ADD_NODE, page.stem)
        frontend.page.wait_for_timeout(1000)
        x, y, width, height = frontend.page.evaluate(_NODE_BOX)
        extra = 2 * NODE_MARGIN_PX
        clip: FloatRect = {"x": x - extra / 2, "y": y - extra / 2, "width": width + extra, "height": height + extra}
        picture = _screenshot(frontend, clip).quantize(128, dither=Image.Dither.NONE)
        _save(picture, page.parent / "images" / f"{page.stem}.png", format="PNG", optimize=True)


def _save(picture: Image.Image, path: Path, **options: Any) -> None:
    write_atomically(path, lambda partial: picture.save(partial, **options))
    print(path.relative_to(PACK), flush=True)


def main(what: Sequence[str]) -> int:
    """Draw what is asked for."""
    makers = {"thumbnails": draw_thumbnails, "nodes": draw_nodes}
    if not what or set(what) - set(makers):
        print(f"usage: python -m tests.comfyui.pictures [{'] ['.join(makers)}]", file=sys.stderr)
        return 2
    chromium = find_chromium()
    if chromium is None:
        print("no Chromium: install Debian's package chromium or name one in $CHROMIUM_PATH", file=sys.stderr)
        return 2
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(find_comfyui(), Path(folder) / "base", "comfyui-nvb-face") as server,
        open_frontend(server, chromium) as frontend,
    ):
        for name in what:
            makers[name](frontend)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
