# SPDX-License-Identifier: MIT
"""Ctrl-C, SIGTERM and a closed terminal: one exception that unwinds, one exit status each.

Imported before anything heavy, so it imports very little itself.
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
AGAIN = 1.0  # seconds; `timeout` and shells signal a process and then its group, as one request

_last: list[tuple[int, float]] = []  # number and time of the latest handled signal
_depth = [0]  # nesting depth of `answered`


class Stopped(KeyboardInterrupt):
    """Raised on a request to stop; unwinds like Ctrl-C, so that temporary files are removed.

    Attributes: number: the signal's number.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        self.number = number
        super().__init__(f"stopped by {name(number)}")


def name(number: int | None = None) -> str:
    """The common name of a signal; by default of the latest one."""
    number = _number() if number is None else number
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def status() -> int:
    """The exit status after the latest signal, as in shells: 130 for Ctrl-C."""
    return 128 + _number()


def _number() -> int:
    return _last[-1][0] if _last else int(signal.SIGINT)


@contextmanager
def answered(answer: Callable[[int], None], ending: bool = False) -> Iterator[None]:
    """Context in which `answer` is called with the number of every stop signal.

    A repeated signal within a second counts as the same request. Signals ignored by the environment (nohup)
    stay ignored; outside the main thread this has no effect, as handlers can only be set there.

    ending: the program exits after the block. Repeated signals during the exit count as the same request.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        again = bool(_last) and _last[-1][0] == number and now - _last[-1][1] < AGAIN
        _last[:] = [(number, now)]
        if not again:
            answer(number)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        # A handler not set from Python is None here, and could not be restored.
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
    """A handler that raises `Stopped`."""
    raise Stopped(number)


def leave(number: int) -> None:
    """A handler for the import phase: print a message and exit. Nothing is open yet, and an exception could
    be lost in half-imported modules."""
    os.write(2, f"stopped by {name(number)}\n".encode())
    os._exit(128 + number)
