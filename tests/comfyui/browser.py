"""ComfyUI's real frontend in a real Chromium: open, drop a workflow, run, look."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import ConsoleMessage, Error, Locator, Page, Route, ViewportSize, sync_playwright

from tests.comfyui.client import Prompt
from tests.comfyui.server import Server

CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
VIEWPORT: ViewportSize = {"width": 1600, "height": 1000}
READY_TIMEOUT_S = 90
ACTION_TIMEOUT_S = 60
RUN_BUTTON = "button[data-testid='queue-button'], [data-testid='queue-button'] button"
"""Newer frontends name the button itself, older ones a group that it is the first of."""

_CALM = """
localStorage.clear();
sessionStorage.clear();
localStorage.setItem('vueNodesBannerDismissed', 'true');
document.addEventListener('DOMContentLoaded', () => {
  const style = document.createElement('style');
  style.textContent = '* { animation: none !important; transition: none !important; }';
  document.head.append(style);
});"""
"""No graph of an earlier test, no advertisement, and no animations: on a busy machine the mask over the loading page
can miss the end of its own."""
_READY = "type => window.app?.graph && window.LiteGraph?.registered_node_types?.[type]"
_DROP = """([name, text]) => {
  const canvas = document.querySelector('#graph-canvas');
  const transfer = new DataTransfer();
  transfer.items.add(new File([text], name, {type: 'application/json'}));
  const box = canvas.getBoundingClientRect();
  const at = {clientX: box.x + box.width / 2, clientY: box.y + box.height / 2};
  for (const type of ['dragenter', 'dragover', 'drop'])
    canvas.dispatchEvent(new DragEvent(type, {dataTransfer: transfer, bubbles: true, cancelable: true, ...at}));
}"""
_LOADED = "ids => ids.every(id => window.app.graph.getNodeById(id))"
_PICTURES_SHOWN = """() => Object.fromEntries(window.app.graph._nodes.map(node => [
  node.id, (node.imgs ?? []).filter(image => image.complete && image.naturalWidth > 0).length]))"""
_FIT = """() => {
  const canvas = window.app.canvas;
  const boxes = window.app.graph._nodes.map(node => node.getBounding());
  const left = Math.min(...boxes.map(b => b[0])), top = Math.min(...boxes.map(b => b[1]));
  const right = Math.max(...boxes.map(b => b[0] + b[2])), bottom = Math.max(...boxes.map(b => b[1] + b[3]));
  const [width, height] = [canvas.canvas.clientWidth, canvas.canvas.clientHeight];
  const scale = Math.min(1, 0.92 * width / (right - left), 0.86 * height / (bottom - top));
  canvas.ds.scale = scale;
  canvas.ds.offset = [width / scale / 2 - (left + right) / 2, height / scale / 2 - (top + bottom) / 2];
  canvas.setDirty(true, true);
}"""


@dataclass
class Frontend:
    """A browser page with ComfyUI's frontend."""

    page: Page
    server: Server
    complaints: list[str] = field(default_factory=list)
    """Errors on the console and uncaught exceptions that name the pack's files."""
    blocked: list[str] = field(default_factory=list)
    """Addresses beyond this machine that the page has asked for."""

    def open(self, node_type: str = "SaveImage") -> None:
        """Load the frontend and wait until it knows this node class."""
        self.page.goto(self.server.url, wait_until="domcontentloaded", timeout=READY_TIMEOUT_S * 1000)
        self.page.wait_for_function(_READY, arg=node_type, timeout=READY_TIMEOUT_S * 1000)

    def drop_workflow(self, path: Path) -> None:
        """Drop a workflow file on the canvas and wait until its nodes are there."""
        text = path.read_text()
        self.page.evaluate(_DROP, [path.name, text])
        ids = [node["id"] for node in json.loads(text)["nodes"]]
        self.page.wait_for_function(_LOADED, arg=ids, timeout=ACTION_TIMEOUT_S * 1000)
        self.page.wait_for_timeout(500)  # widgets of extensions appear a few frames after their nodes

    def load_api_prompt(self, prompt: Prompt, name: str) -> None:
        """Open a graph in API form; the frontend lays it out."""
        self.page.evaluate("async ([prompt, name]) => { await window.app.loadApiJson(prompt, name); }", [prompt, name])
        self.page.wait_for_function(_LOADED, arg=list(prompt), timeout=ACTION_TIMEOUT_S * 1000)
        self.page.wait_for_timeout(500)

    def missing_nodes(self) -> list[str]:
        """Types of the graph's nodes that the frontend doesn't know."""
        missing: list[str] = self.page.evaluate(
            """() => window.app.graph._nodes.filter(node =>
                 !window.LiteGraph.registered_node_types[node.type] && !window.app.graph.subgraphs?.has(node.type))
               .map(node => node.type)"""
        )
        return missing

    def api_prompt(self) -> Prompt:
        """The graph in the form that the Run button sends."""
        prompt: Prompt = self.page.evaluate("async () => (await window.app.graphToPrompt()).output")
        return prompt

    def serialized(self) -> dict[str, Any]:
        """The graph in the form that is saved."""
        text = self.page.evaluate("() => JSON.stringify(window.app.graph.serialize())")  # leaves out what is undefined
        graph: dict[str, Any] = json.loads(text)
        return graph

    def load_graph(self, graph: dict[str, Any]) -> None:
        """Open a saved graph in place of the present one."""
        self.page.evaluate("async graph => { await window.app.loadGraphData(graph); }", graph)

    def lower_widget(self, prefix: str, name: str, value: int) -> None:
        """Set the widget of this name of every node whose type starts with `prefix` to at most `value`, above 0."""
        self.page.evaluate(
            """([prefix, name, value]) => {
              const graphs = [window.app.graph, ...(window.app.graph.subgraphs?.values() ?? [])];
              const nodes = graphs.flatMap(graph => graph._nodes).filter(node => node.type.startsWith(prefix));
              for (const widget of nodes.flatMap(node => node.widgets ?? []).filter(w => w.name === name)) {
                if (typeof widget.value !== 'number' || widget.value <= value) continue;
                widget.value = value;
                widget.callback?.(value);
              }
            }""",
            [prefix, name, value],
        )

    def set_setting(self, name: str, value: Any) -> None:
        """Change one of ComfyUI's settings and wait until it is stored."""
        self.page.evaluate("([name, value]) => window.app.extensionManager.setting.set(name, value)", [name, value])

    def drag(self, target: Locator, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag with the mouse inside an element, from and to places in fractions of its width and height."""
        box = target.bounding_box()
        assert box is not None
        (x0, y0), (x1, y1) = ((box["x"] + u * box["width"], box["y"] + v * box["height"]) for u, v in (start, end))
        self.page.mouse.move(x0, y0)
        self.page.mouse.down()
        self.page.mouse.move(x1, y1, steps=8)
        self.page.mouse.up()
        self.page.wait_for_timeout(200)

    def press_run(self) -> str:
        """Press the Run button; returns the id of the prompt that the server has accepted."""
        with self.page.expect_response("**/prompt", timeout=ACTION_TIMEOUT_S * 1000) as caught:
            self.page.locator(RUN_BUTTON).first.click()
        answer = caught.value.json()
        assert caught.value.ok, answer
        assert not answer["node_errors"], answer
        return str(answer["prompt_id"])

    def wait_for_pictures(self, node_ids: list[int], timeout_s: float) -> None:
        """Wait until each of these nodes shows a picture that has been loaded."""
        deadline = time.monotonic() + timeout_s
        while True:
            self.fit()  # pictures of nodes out of view aren't loaded, nor those of a canvas that isn't drawn again
            shown = self.pictures_shown()
            missing = [node for node in node_ids if not shown.get(node)]
            if not missing:
                return
            if time.monotonic() > deadline:
                known = self.page.evaluate("() => Object.keys(window.app.nodeOutputs)")
                raise AssertionError(f"no pictures on nodes {missing}; the page has heard of outputs of {known}")

    def pictures_shown(self) -> dict[int, int]:
        """How many loaded pictures each node shows."""
        return {int(node): count for node, count in self.page.evaluate(_PICTURES_SHOWN).items()}

    def alerts(self) -> list[str]:
        """Texts of the messages and dialogs that lie over the page."""
        return [text for text in self.page.locator(".p-toast-message, .p-dialog").all_inner_texts() if text.strip()]

    def fit(self) -> None:
        """Bring the whole graph into view."""
        self.page.evaluate(_FIT)
        self.page.wait_for_timeout(500)

    def screenshot(self, path: Path) -> None:
        """Picture of the page with the whole graph in view."""
        self.fit()
        self.page.screenshot(path=path)


def find_chromium() -> str | None:
    """The browser to use: $CHROMIUM_PATH, else a Chromium of the system."""
    names = (os.environ.get("CHROMIUM_PATH", ""), "chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if name and (found := shutil.which(name))), None)


@contextmanager
def open_frontend(server: Server, chromium: str) -> Iterator[Frontend]:
    """A fresh browser with the frontend opened."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=list(CHROMIUM_FLAGS))
        try:
            page = browser.new_page(viewport=VIEWPORT)
            frontend = Frontend(page, server)
            _listen(frontend)
            frontend.open()
            yield frontend
        finally:
            browser.close()


def _listen(frontend: Frontend) -> None:
    extension = f"/extensions/{frontend.server.pack_folder}/"

    def complain(text: str) -> None:
        if extension in text:
            frontend.complaints.append(text)

    def on_console(message: ConsoleMessage) -> None:
        if message.type == "error":
            complain(f"{message.text} at {message.location.get('url', '')}")

    def on_exception(error: Error) -> None:
        complain(f"{error.message}\n{error.stack}")

    def on_request(route: Route) -> None:
        if route.request.url.startswith((frontend.server.url, "data:", "blob:")):
            route.continue_()
        else:
            frontend.blocked.append(route.request.url)
            route.abort()

    frontend.page.add_init_script(_CALM)
    frontend.page.on("console", on_console)
    frontend.page.on("pageerror", on_exception)
    frontend.page.route("**/*", on_request)
