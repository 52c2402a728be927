"""The picker as someone in front of the screen meets it."""

from __future__ import annotations

import json
from typing import Any


def keys_text(*keys: dict[str, float], frame: str = "face") -> str:
    """The picker's text with these keys."""
    return json.dumps({"format": "nvb-camera-keys", "version": 1, "frame": frame, "keys": list(keys)})


class Picker:
    """The picker on the page, as someone in front of the screen meets it."""

    def __init__(self, page: Any, text: str, views: int) -> None:
        self.page = page
        page.evaluate("([text, views]) => { window.node = app.createNode(text, views).add(); }", [text, views])
        self.canvas = page.locator("canvas")
        page.wait_for_function("document.querySelector('canvas').clientHeight > 100 && document.styleSheets.length > 1")
        self.settle()

    def settle(self) -> None:
        """Waits until what is due to be drawn is drawn."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    @property
    def text(self) -> str:
        return self.page.evaluate("node.widget('keys').value")

    @property
    def keys(self) -> list[dict[str, float]]:
        return json.loads(self.text)["keys"]

    @property
    def steps(self) -> list[str]:
        """What reached the graph so far; undo sees a change as before and after."""
        return self.page.evaluate("graphLog")

    @property
    def problem(self) -> str:
        return self.page.locator(".nvb-problem").inner_text() if self.page.locator(".nvb-problem").is_visible() else ""

    def selected(self) -> int:
        return int(self.page.locator("[role=radio][aria-checked=true]").inner_text())

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Page coordinates of a point of the sphere's picture: in radii, x to the right, y up."""
        disc = self.page.evaluate(
            """async () => {
              const { discIn } = await import('/extensions/some pack-name/js/camera_picker/drawing.js');
              const canvas = document.querySelector('canvas');
              const box = canvas.getBoundingClientRect();
              const zoom = box.width / canvas.clientWidth;
              const disc = discIn(canvas.clientWidth, canvas.clientHeight);
              return [box.left + zoom * disc.x, box.top + zoom * disc.y, zoom * disc.radius];
            }"""
        )
        return disc[0] + x * disc[2], disc[1] - y * disc[2]

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 6) -> None:
        mouse = self.page.mouse
        mouse.move(*self.at(*start))
        mouse.down()
        mouse.move(*self.at(*end), steps=steps)
        mouse.up()
        self.settle()

    def number(self, field: str) -> Any:
        return self.page.locator(f"[data-field={field}]")
