# SPDX-License-Identifier: MIT
"""How a training run is stopped, and its log; without Lightning, so that anyone can import it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from crfrnn.evaluation.tables import write_csv


class Interrupted(Exception):
    """Training was asked to stop, and did so behind a whole step.

    Attributes: checkpoint: where it goes on.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        super().__init__(f"interrupted; everything so far is in {checkpoint}")


class StopRequest:
    """While it is entered, the first SIGINT or SIGTERM only sets `asked`; the second one acts as usual.

    Args: stop_after: ask after so many batches, for tests.
    """

    def __init__(self, stop_after: int | None = None) -> None:
        self.asked = False
        self._left = stop_after
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def count(self) -> None:
        """A batch is done."""
        if self._left is not None:
            self._left -= 1
            self.asked = self.asked or self._left <= 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(number, self._before.get(number, signal.default_int_handler))


def write_log(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """One line per epoch; written anew each time, so that a resumed run has every epoch once."""
    if history:
        rows = [[f"{v:.6g}" if isinstance(v, float) else v for v in line.values()] for line in history]
        write_csv(path, [list(history[0]), *rows])
