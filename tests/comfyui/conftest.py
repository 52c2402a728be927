"""One ComfyUI for all tests of this folder, a browser, and the folder where what they show is kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.comfyui.browser import Frontend, find_chromium, open_frontend
from tests.comfyui.client import Client
from tests.comfyui.graph import Graph
from tests.comfyui.provision import PACK, ComfyUI, NoComfyUIError, find_comfyui
from tests.comfyui.server import Server, running_server

PACK_FOLDER, OTHER_PACK_FOLDER = "comfyui-nvb-face", "NVB_Face.main"
PROVISIONING_TIMEOUT_S = 1800
"""The first test may have to wait until a ComfyUI is made; whatever can hang inside has a shorter limit of its own."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.comfyui)
            item.add_marker(pytest.mark.timeout(PROVISIONING_TIMEOUT_S))


@pytest.fixture(scope="session")
def comfyui() -> ComfyUI:
    """A ComfyUI that can be started; skips, or with REQUIRE_COMFYUI=1 fails, when there is none."""
    try:
        return find_comfyui()
    except NoComfyUIError as error:
        if os.environ.get("REQUIRE_COMFYUI") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def artefacts() -> Path:
    """Where screenshots and server logs are kept, $NVB_ARTEFACTS or out/comfyui-artefacts."""
    folder = Path(os.environ.get("NVB_ARTEFACTS", PACK / "out" / "comfyui-artefacts"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def server(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory, artefacts: Path) -> Iterator[Server]:
    """A running ComfyUI with the pack in a folder with a hyphen, as git clones it."""
    with running_server(comfyui, tmp_path_factory.mktemp("comfyui"), PACK_FOLDER) as server:
        try:
            yield server
        finally:
            (artefacts / "comfyui.log").write_text(server.log)


@pytest.fixture(scope="session")
def renamed_server(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running ComfyUI with the pack in a folder of another name."""
    with running_server(comfyui, tmp_path_factory.mktemp("renamed"), OTHER_PACK_FOLDER) as server:
        yield server


@pytest.fixture(scope="session")
def client(server: Server) -> Client:
    return Client(server)


@pytest.fixture(scope="session")
def object_info(client: Client) -> dict[str, Any]:
    """The server's description of every node class."""
    return client.object_info()


@pytest.fixture
def graph(object_info: dict[str, Any]) -> Graph:
    """A graph without nodes."""
    return Graph(object_info)


@pytest.fixture(scope="session")
def chromium() -> str:
    """A Chromium; skips, or with REQUIRE_COMFYUI=1 fails, when there is none."""
    if found := find_chromium():
        return found
    reason = "no Chromium: install Debian's package chromium or name one in $CHROMIUM_PATH"
    if os.environ.get("REQUIRE_COMFYUI") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def frontend(server: Server, chromium: str) -> Iterator[Frontend]:
    """ComfyUI's frontend in a browser, closed after the module: two open Playwrights in one process don't go."""
    with open_frontend(server, chromium) as frontend:
        yield frontend
