from __future__ import annotations

import os
import signal
import threading
from types import SimpleNamespace

import pytest

from training.interrupt import StopSignal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_is_a_flag_and_a_later_one_interrupts(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("training.interrupt.time", SimpleNamespace(monotonic=lambda: clock[0]))
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert not stop.received
        os.kill(os.getpid(), number)
        assert stop.received
        os.kill(os.getpid(), signal.SIGTERM)  # the launcher's copy of the same Ctrl-C
        clock[0] += 3
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_other_threads_leave_signals_alone() -> None:
    seen = []

    def enter() -> None:
        with StopSignal() as stop:
            seen.append(stop.received)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [False]
