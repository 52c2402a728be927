"""A page with a stand-in for ComfyUI's frontend, served from this machine, in a headless Chromium."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from tests.web.picker_page import Picker, keys_text

PAGE = Path(__file__).parent / "page"
WEB = Path(__file__).parents[2] / "web"
CHROMIUM = Path(os.environ.get("CHROMIUM_PATH", "/usr/bin/chromium"))
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Handler(SimpleHTTPRequestHandler):
    """The pack's folder `web` as ComfyUI serves it, and the stand-in for the rest."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".js": "text/javascript"}

    def translate_path(self, path: str) -> str:
        parts = unquote(path.split("?")[0]).strip("/").split("/")
        if ".." in parts:
            return str(PAGE / "missing")
        if parts[0] == "extensions":
            return str(WEB.joinpath(*parts[2:]))
        return str(PAGE / "app.js" if parts == ["scripts", "app.js"] else PAGE / (parts[0] or "index.html"))

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


def skip(reason: str) -> None:
    if os.environ.get("REQUIRE_BROWSER") == "1":
        pytest.fail(f"REQUIRE_BROWSER=1, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    if not CHROMIUM.exists():
        skip(f"there is no {CHROMIUM} (Debian package chromium; CHROMIUM_PATH names another)")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        skip("playwright is not installed (pip install playwright)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """Address of the page."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler)) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The stand-in, with nothing on it yet; an error on the page fails the test."""
    page = browser.new_page(viewport={"width": 900, "height": 760})
    page.set_default_timeout(30_000)  # the machine may be busy
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(address)
    page.wait_for_function("window.app")
    yield page
    page.close()
    assert errors == []


@pytest.fixture
def open_picker(page: Any) -> Callable[..., Picker]:
    """Puts a node with the picker on the page."""

    def open_(text: str = keys_text({"yaw_deg": 0}), views: int = 0) -> Picker:
        return Picker(page, text, views)

    return open_
