"""Ctrl-C and SIGTERM as a flag, so that training stops between two steps and not within one."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType

PATIENCE_SECONDS = 2.0
"""A terminal's Ctrl-C reaches a process directly and once more through its launcher; a person takes longer."""


class StopSignal:
    """Context in which the first signal sets `received` and a second, later one raises KeyboardInterrupt at once."""

    def __init__(self) -> None:
        self.received = False
        self.received_at = 0.0
        self.previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received and now - self.received_at > PATIENCE_SECONDS:
            raise KeyboardInterrupt
        if not self.received:
            self.received, self.received_at = True, now
