"""The `nvb-face` executable: runs one of the commands that installed packages offer as `nvb_face.commands`.

A command is a function `main(argv: list[str]) -> int`; only the chosen one is imported. NVBError and Ctrl-C end in one
line on stderr and exit code 2; a reader of the output that goes away (`| head`) ends it without a word.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from ..errors import ConfigError, NVBError

if TYPE_CHECKING:
    from rich.console import Console

PROG = "nvb-face"
GROUP = "nvb_face.commands"
FAILURE = 2
PIPE_CLOSED = 141
"""Exit code of a program whose output nobody reads: what shells show for one that SIGPIPE (13) ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `nvb-face` with the arguments `argv` (default: those of the process); returns the exit code: 0, 2 or 141."""
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        print(end="", flush=True)  # now: at the interpreter's end a closed pipe would be a traceback
        return code
    except BrokenPipeError:
        _drop_unread_output()
        return PIPE_CLOSED


def _drop_unread_output() -> None:
    """Lead standard streams whose reader is gone to nowhere, or the interpreter would meet the closed pipe again."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _run(arguments: list[str]) -> int:
    try:
        with interruptible():
            return _dispatch(arguments)
    except NVBError as error:
        report_error(error)
    except KeyboardInterrupt:
        print(f"{PROG}: interrupted; nothing half-written was left", file=sys.stderr)
    except SystemExit as stop:  # how option parsers end after --help or a wrong option
        return stop.code if isinstance(stop.code, int) else FAILURE
    return FAILURE


def report_error(error: NVBError) -> None:
    """Print the error to stderr as one line."""
    print(f"{PROG}: error: {' '.join(str(error).split())}", file=sys.stderr)


def plain_console() -> Console:
    """On stdout; brackets, as in file names, are printed as they are."""
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False)


def _dispatch(arguments: list[str]) -> int:
    commands = {entry.name: entry for entry in metadata.entry_points(group=GROUP)}
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help(commands.values()))
        return 0 if arguments else FAILURE
    name = arguments[0]
    if name == "--version":
        print(f"{PROG} {metadata.version('nvb-face')}")
        return 0
    if name not in commands:
        close = difflib.get_close_matches(name, commands) or sorted(commands)
        hint = f"did you mean {' or '.join(close)}?" if close else "nothing is installed: run pip install ."
        raise ConfigError(f"unknown command {name!r}; {hint}")
    try:
        return int(commands[name].load()(arguments[1:]))
    except ModuleNotFoundError as error:
        if importlib.util.find_spec((error.name or __name__).partition(".")[0]) is not None:
            raise  # the package is there: a bug
        raise ConfigError(
            f"command {name} needs the package {error.name}; install it with: pip install 'nvb-face[train]'"
        ) from error


def _help(commands: Iterable[metadata.EntryPoint]) -> str:
    lines = [f"usage: {PROG} [--version | --help] COMMAND ...", "", "commands:"]
    lines += [f"  {entry.name:<12} {_summary(entry.module)}" for entry in sorted(commands, key=lambda e: e.name)]
    return "\n".join([*lines, "", f"options of a command: {PROG} COMMAND --help"])


def _summary(module: str) -> str:
    """First line of a module's docstring, read without importing it."""
    package, *path = module.split(".")
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        for file in (Path(folder, *path).with_suffix(".py"), Path(folder, *path, "__init__.py")):
            if file.is_file():
                return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]
    return ""


class _Interrupted(KeyboardInterrupt):
    """A KeyboardInterrupt proper that passes through exec(), as in importing a dataclass, makes `python -m` end by
    SIGINT (3.11: run_eval_code_obj), even though it was caught and main returned an exit code."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM, which launchers send, clean up like Ctrl-C does, and both end in an exit code."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise _Interrupted

    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # a shell's background jobs ignore Ctrl-C
        numbers.append(signal.SIGINT)
    previous = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
