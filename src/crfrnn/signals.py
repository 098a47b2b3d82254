# SPDX-License-Identifier: MIT
"""Ctrl-C, SIGTERM and a closed terminal: one exception that unwinds, one exit status each.

Imported before anything heavy, so it imports next to nothing itself.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

NUMBERS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
AGAIN = 1.0  # seconds; `timeout` and shells signal a process and then its group, which is one request

_last: list[tuple[int, float]] = []  # number and time of the latest signal that was answered
_depth = [0]  # how often `answered` is entered


class Stopped(KeyboardInterrupt):
    """The program was asked to end; it unwinds as Ctrl-C does, so that temporary files are removed.

    Attributes: number: of the signal.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        self.number = number
        super().__init__(f"stopped by {name(number)}")


def name(number: int | None = None) -> str:
    """What people call a signal; by default the latest one."""
    number = _number() if number is None else number
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def status() -> int:
    """The exit status of a program that the latest signal ended, as shells count it: 130 for Ctrl-C."""
    return 128 + _number()


def _number() -> int:
    return _last[-1][0] if _last else int(signal.SIGINT)


@contextmanager
def answered(answer: Callable[[int], None], ending: bool = False) -> Iterator[None]:
    """While it is entered, `answer` gets the number of every signal that asks the program to end.

    The same signal within a second is the same request. What the surroundings ignore (nohup) stays ignored;
    outside the main thread nothing changes, as only there handlers can be set.

    ending: the program ends behind it. Signals that come again while it does are the same request, too.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        again = bool(_last) and _last[-1][0] == number and now - _last[-1][1] < AGAIN
        _last[:] = [(number, now)]
        if not again:
            answer(number)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        # A handler that was not set from Python is None here, and could not be set again.
        known = {number: signal.getsignal(number) for number in NUMBERS}
        before = {n: handler for n, handler in known.items() if handler not in (None, signal.SIG_IGN)}
    _depth[0] += 1
    if _depth[0] == 1:
        _last.clear()
    try:
        for number in before:
            signal.signal(number, handle)
        yield
    finally:
        _depth[0] -= 1
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if ending and _last else handler)


def unwind(number: int) -> None:
    """An answer: raise `Stopped`."""
    raise Stopped(number)


def leave(number: int) -> None:
    """An answer while modules are imported: say so and end; nothing is open yet, and an exception would be
    lost in half-imported modules."""
    os.write(2, f"stopped by {name(number)}\n".encode())
    os._exit(128 + number)
