from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from nvb_core import cli
from nvb_core.errors import ImageError


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that do or fail in known ways, in an importable package."""
    package = tmp_path / "fake_commands"
    package.mkdir()
    (package / "__init__.py").write_text("")
    sources = {
        "greet": '"""Say hello.\n\nMore."""\ndef main(argv):\n    print("hello", *argv)\n    return 0',
        "refuse": '"""Raise a user error."""\nfrom nvb_core.errors import ImageError\ndef main(argv):\n'
        '    raise ImageError("photo.jpg:\\n  empty file")',
        "wait": '"""Be interrupted."""\ndef main(argv):\n    raise KeyboardInterrupt',
        "killed": '"""Be terminated."""\nimport os, signal, time\ndef main(argv):\n'
        "    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(10)",
        "usage": '"""End like an option parser."""\ndef main(argv):\n    raise SystemExit(int(argv[0]))',
        "lacking": '"""Need what is not installed."""\nimport package_that_nobody_has',
        "late": '"""Need it when run."""\ndef main(argv):\n    import package_that_nobody_has',
        "broken": '"""Have a bug."""\nimport fake_commands.misspelt',
    }
    for name, source in sources.items():
        (package / f"{name}.py").write_text(source)
    entries = [EntryPoint(name, f"fake_commands.{name}:main", cli.GROUP) for name in sources]
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(cli.metadata, "entry_points", lambda group: entries if group == cli.GROUP else [])


def one_line(text: str) -> str:
    """The only line of `text`."""
    assert text.count("\n") == 1
    assert text.endswith("\n")
    return text.strip()


@pytest.mark.usefixtures("commands")
class TestMain:
    def test_runs_the_command_with_its_arguments(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["greet", "--loud", "you"]) == 0
        assert capsys.readouterr().out == "hello --loud you\n"

    @pytest.mark.parametrize("option", ["-h", "--help"])
    def test_help_lists_commands_without_importing_them(self, option: str, capsys: pytest.CaptureFixture[str]) -> None:
        sys.modules.pop("fake_commands.greet", None)
        assert cli.main([option]) == 0
        lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
        assert ["greet", "Say hello."] in lines
        assert ["broken", "Have a bug."] in lines
        assert "fake_commands.greet" not in sys.modules

    def test_no_command_shows_help_and_fails(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main([]) == 2
        assert "greet" in capsys.readouterr().out

    def test_unknown_command_suggests(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["gret"]) == 2
        assert one_line(capsys.readouterr().err) == "nvb-face: error: unknown command 'gret'; did you mean greet?"

    def test_errors_are_one_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["refuse"]) == 2
        assert one_line(capsys.readouterr().err) == "nvb-face: error: photo.jpg: empty file"

    @pytest.mark.parametrize("command", ["wait", "killed"])
    def test_interruption_is_one_line(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        before = signal.getsignal(signal.SIGTERM)
        assert cli.main([command]) == 2
        assert one_line(capsys.readouterr().err) == "nvb-face: interrupted; nothing half-written was left"
        assert signal.getsignal(signal.SIGTERM) is before

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_within_exec_ends_in_an_exit_code_too(self, number: int, tmp_path: Path) -> None:
        """Under `python -m`, CPython would end the process by SIGINT for a KeyboardInterrupt that passed an exec."""
        (tmp_path / "fake_commands" / "__main__.py").write_text(
            "import os, signal, sys\nfrom importlib.metadata import EntryPoint\nfrom nvb_core import cli\n"
            "def main(argv):\n"
            f"    exec('os.kill(os.getpid(), {int(number)}); signal.pause()')\n"
            "entry = EntryPoint('run', 'fake_commands.__main__:main', cli.GROUP)\n"
            "cli.metadata.entry_points = lambda group: [entry]\n"
            "if __name__ == '__main__':\n    sys.exit(cli.main(['run']))"
        )
        paths = os.pathsep.join([str(tmp_path), str(Path(cli.__file__).parents[2])])
        command, environment = [sys.executable, "-m", "fake_commands"], {**os.environ, "PYTHONPATH": paths}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, one_line(done.stderr)) == (2, "nvb-face: interrupted; nothing half-written was left")

    @pytest.mark.parametrize("code", [0, 2])
    def test_exit_code_of_option_parsers_is_passed_on(self, code: int) -> None:
        assert cli.main(["usage", str(code)]) == code

    @pytest.mark.parametrize("command", ["lacking", "late"])
    def test_missing_dependency_says_what_to_install(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main([command]) == 2
        assert "package_that_nobody_has" in (line := one_line(capsys.readouterr().err))
        assert "pip install" in line

    def test_bugs_are_not_hidden(self) -> None:
        with pytest.raises(ModuleNotFoundError, match="misspelt"):
            cli.main(["broken"])


def test_works_without_installed_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli.metadata, "entry_points", lambda group: [])
    assert cli.main(["render"]) == 2
    assert "pip install" in one_line(capsys.readouterr().err)


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"nvb-face {version('nvb-face')}\n"


def test_every_offered_command_has_a_summary() -> None:
    from importlib.metadata import entry_points

    entries = entry_points(group=cli.GROUP)
    assert "render" in entries.names
    assert all(cli._summary(entry.module) for entry in entries)


def test_importing_the_dispatcher_is_cheap() -> None:
    import subprocess

    code = "import sys, nvb_core.cli; print(sorted({'torch', 'numpy', 'diffusers', 'tyro', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, env=os.environ)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(sys.platform == "win32", reason="closed pipes show up differently there")
@pytest.mark.parametrize("amount", [1, 10**6])  # kept back until the end, and more than Python keeps back
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_that_nobody_reads_ends_quietly(tmp_path: Path, amount: int, stream: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys\nfrom nvb_core import cli\n"
        f"def talk(arguments):\n    print('x' * {amount}, file=sys.{stream})\n    return 0\n"
        "cli._dispatch = talk\nsys.exit(cli.main([]))"
    )
    reader, writer = os.pipe()
    os.close(reader)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: writer}
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    done = subprocess.run([sys.executable, script], env=environment, check=False, **pipes)  # type: ignore[call-overload]
    os.close(writer)
    assert (done.returncode, done.stdout or b"", done.stderr or b"") == (cli.PIPE_CLOSED, b"", b"")


def test_report_error_joins_lines(capsys: pytest.CaptureFixture[str]) -> None:
    cli.report_error(ImageError("a\n  b"))
    assert capsys.readouterr().err == "nvb-face: error: a b\n"
