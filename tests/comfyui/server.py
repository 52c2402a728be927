"""A ComfyUI process for the tests: a fresh base directory, a free port, no network.

It computes on the CPU and sees no GPU, or with NVB_COMFYUI_DEVICE=cuda as ComfyUI itself chooses on a GPU; the pack's
networks are then in bf16 or fp16, and tests that compare numbers closely may differ.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests

from tests.comfyui.provision import PACK, ComfyUI

HERE = Path(__file__).parent
PROBES = HERE / "probes"
WORKFLOWS = PACK / "workflows"
PHOTO = "astronaut.jpg"
BOOT_TIMEOUT_S = 300
STOP_TIMEOUT_S = 20
ON_CPU, ON_GPU = "cpu", "cuda"
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Minimap.Visible": False,
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,  # or a graph seen from afar has no pictures
}


class ServerError(AssertionError):
    """ComfyUI doesn't do what it must; the message ends with its log."""


@dataclass
class Server:
    """A running ComfyUI."""

    comfyui: ComfyUI
    base: Path
    port: int
    pack_folder: str
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What the server has printed."""
        return (self.base / "log.txt").read_text(errors="replace")

    @property
    def network_attempts(self) -> list[str]:
        """Connections beyond this machine that the server has tried."""
        log = self.base / "network.txt"
        return log.read_text().splitlines() if log.exists() else []

    def error(self, what: str) -> ServerError:
        """An error that carries the end of the log."""
        return ServerError(f"{what}\n--- the end of ComfyUI's log ---\n{self.log[-6000:]}")

    def check_alive(self) -> None:
        """Raises ServerError when the process has ended."""
        if (code := self.process.poll()) is not None:
            raise self.error(f"ComfyUI ended with exit code {code}")

    def rss_bytes(self) -> int:
        """Resident memory of the process."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def import_seconds(self) -> float:
        """The pack's line in ComfyUI's own table of import times, which has a resolution of 0.1 s."""
        path = re.escape(str(self.base / "custom_nodes" / self.pack_folder))
        found = re.search(rf" ([\d.]+) seconds(.*): {path}$", self.log, re.MULTILINE)
        if found is None:
            raise self.error(f"{self.pack_folder} is not in the table of import times")
        if found[2]:
            raise self.error(f"{self.pack_folder}:{found[2]}")
        return float(found[1])


@contextmanager
def running_server(comfyui: ComfyUI, base: Path, pack_folder: str, probes: bool = True) -> Iterator[Server]:
    """Boot ComfyUI in the new folder `base`, the pack linked into its custom_nodes as `pack_folder`; stop it after.

    With `probes` the test nodes are there too, and the networks' calls are counted.
    """
    device = chosen_device()
    _furnish(comfyui, base, pack_folder)
    if probes:
        (base / "custom_nodes" / "nvb-probes").symlink_to(PROBES, target_is_directory=True)
    port = free_port()
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(HERE / "offline"),
        "PYTHONUNBUFFERED": "1",
        "NVB_NETWORK_LOG": str(base / "network.txt"),
    }
    environment.pop("VIRTUAL_ENV", None)
    if device == ON_CPU:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    command = _command(comfyui, base, port, device)
    with (base / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, cwd=comfyui.root, env=environment, stdout=log, stderr=subprocess.STDOUT)
    server = Server(comfyui, base, port, pack_folder, process)
    try:
        _wait_until_ready(server)
        yield server
    finally:
        _stop(process)


def chosen_device() -> str:
    """$NVB_COMFYUI_DEVICE, cpu by default. Raises ValueError unless it is cpu or cuda."""
    device = os.environ.get("NVB_COMFYUI_DEVICE", ON_CPU)
    if device not in (ON_CPU, ON_GPU):
        raise ValueError(f"NVB_COMFYUI_DEVICE is {device!r:.40}, must be {ON_CPU} or {ON_GPU}")
    return device


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _furnish(comfyui: ComfyUI, base: Path, pack_folder: str) -> None:
    for folder in ("custom_nodes", "input", "models/nvb_face", "models/upscale_models", "user/default"):
        (base / folder).mkdir(parents=True)
    (base / "user" / "default" / "comfy.settings.json").write_text(json.dumps(SETTINGS))
    (base / "custom_nodes" / pack_folder).symlink_to(PACK, target_is_directory=True)
    for photo in (PACK / "examples").glob("*.jpg"):
        shutil.copy(photo, base / "input" / photo.name)
    for name in files_in_workflows("LoadImage"):
        shutil.copy(PACK / "examples" / PHOTO, base / "input" / name)  # the user's photo
    for name in files_in_workflows("UpscaleModelLoader"):
        upscaler = base / "models" / "upscale_models" / name
        subprocess.run([comfyui.python, HERE / "upscaler.py", upscaler], check=True, capture_output=True)


def files_in_workflows(loader: str) -> set[str]:
    """File names that the pack's workflows ask core's loader of this class for."""
    graphs = [json.loads(path.read_text(encoding="utf-8")) for path in WORKFLOWS.glob("*.json")]
    nodes = [node for graph in graphs for node in graph["nodes"]]
    return {str(node["widgets_values"][0]) for node in nodes if node["type"] == loader}


def _command(comfyui: ComfyUI, base: Path, port: int, device: str) -> list[str]:
    command = [str(comfyui.python), "main.py", "--listen", "127.0.0.1", "--port", str(port)]
    if device == ON_CPU:
        command.append("--cpu")
    command += ["--base-directory", str(base), "--database-url", f"sqlite:///{base}/user/comfyui.db"]
    command += ["--disable-auto-launch", "--disable-api-nodes"]
    if frontend := os.environ.get("COMFYUI_FRONTEND_ROOT"):
        command += ["--front-end-root", frontend]
    return command


def _wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    while time.monotonic() < deadline:
        server.check_alive()
        try:
            if requests.get(f"{server.url}/system_stats", timeout=5).ok:
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.3)
    raise server.error(f"ComfyUI didn't answer within {BOOT_TIMEOUT_S} s")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
