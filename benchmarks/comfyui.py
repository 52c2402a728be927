"""Views through a ComfyUI server against `nvb-face render`: seconds for the same pictures with the same settings.

Each round starts both anew, in the interpreter and with the libraries of the ComfyUI that the tests use. The server's
time runs from queueing to the last file, once with the model to load and once more with another seed; the command's
own figure has the model to load too, but neither the interpreter's start nor the imports.

python -m benchmarks.comfyui [--views 8] [--steps 50] [--rounds 3]
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from tests.comfyui.client import Client, Prompt
from tests.comfyui.graph import Graph
from tests.comfyui.provision import PACK, ComfyUI, find_comfyui
from tests.comfyui.server import PHOTO, running_server
from tests.comfyui.stages import load_photo

BAR = 1.15
TIMEOUT_S = 1800


@dataclass(frozen=True)
class Options:
    views: int = 8
    """Views of the photo, on a yaw sweep."""
    steps: int = 50
    """Denoising steps."""
    rounds: int = 3
    """Times that everything is measured; the table shows medians."""


@dataclass(frozen=True)
class Seconds:
    """One round."""

    command: float
    """What `nvb-face render` says itself."""
    process: float
    """Its whole process."""
    first: float
    """The server's first run."""
    second: float
    """The server's second run, with another seed."""


def main() -> None:
    options = tyro.cli(Options)
    comfyui = find_comfyui()
    rounds = []
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append(measure(comfyui, options, Path(folder)))
        print(f"round {number + 1}: {rounds[-1]}", flush=True)
    command, process, first, second = (
        statistics.median(getattr(each, name) for each in rounds) for name in ("command", "process", "first", "second")
    )
    table = Table("figure", "seconds", "relative", "bar")
    table.add_row("nvb-face render, its own figure", f"{command:.1f}", "1", "")
    table.add_row("nvb-face render, the whole process", f"{process:.1f}", f"{process / command:.2f}", "")
    table.add_row("ComfyUI, first run", f"{first:.1f}", f"{first / command:.2f}", f"<= {BAR}")
    table.add_row("ComfyUI, another seed", f"{second:.1f}", f"{second / command:.2f}", f"<= {BAR}")
    Console().print(table)


def measure(comfyui: ComfyUI, options: Options, folder: Path) -> Seconds:
    command, process = by_command(comfyui, options, folder / "out")
    first, second = by_server(comfyui, options, folder / "comfyui")
    return Seconds(command, process, first, second)


def by_command(comfyui: ComfyUI, options: Options, out: Path) -> tuple[float, float]:
    """Seconds that `nvb-face render` says, and seconds of its process."""
    arguments = [f"--views={options.views}", "--path=sweep", f"--steps={options.steps}", "--no-turntable"]
    arguments += [f"--out={out}", "--device=cpu"]
    environment = os.environ | {"PYTHONPATH": str(PACK), "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    command = [str(comfyui.python), "-m", "nvb_core.cli", "render", str(PACK / "examples" / PHOTO), *arguments]
    started = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)  # noqa: S603
    seconds = time.monotonic() - started
    (said,) = re.findall(rf"{options.views} views of .* in ([\d.]+) s", done.stderr)
    return float(said), seconds


def by_server(comfyui: ComfyUI, options: Options, base: Path) -> tuple[float, float]:
    """Seconds of a server's first run and of one with another seed."""
    base.mkdir()
    with running_server(comfyui, base, "comfyui-nvb-face", probes=False) as server:
        client = Client(server)
        info = client.object_info()
        first, second = (client.run_well(prompt(Graph(info), options, seed), TIMEOUT_S).seconds for seed in (0, 1))
    return first, second


def prompt(graph: Graph, options: Options, seed: int) -> Prompt:
    """The graph that writes what the command writes: views, cameras and a contact sheet."""
    photo = load_photo(graph)
    views = graph.add("NVBNovelViews", photo, preset="sweep", views=options.views, steps=options.steps, seed=seed)
    images, cameras = views.output("IMAGE"), views.output("NVB_CAMERAS")
    graph.add("NVBSaveViews", images, cameras)
    graph.add("SaveImage", graph.add("NVBContactSheet", images, cameras, photo=photo))
    return graph.prompt


if __name__ == "__main__":
    main()
