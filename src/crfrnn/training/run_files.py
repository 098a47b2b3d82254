# SPDX-License-Identifier: MIT
"""How a training run is stopped, and its log; without Lightning, so that anyone can import it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from crfrnn import signals
from crfrnn.evaluation.tables import write_csv

# (what is done: "fit", "validate", "tune", epoch or trial, pictures done, pictures in all, loss or figure)
Watch = Callable[[str, int, int, int, float], None]
BEST = "best"  # the folder of the best epoch, beside the last one's


class Interrupted(Exception):
    """Training was asked to stop, and did so behind a whole step.

    Attributes: checkpoint: where it goes on; it is not there if nothing has been learnt yet.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        kept = f"everything so far is in {checkpoint}" if checkpoint.exists() else "nothing is learnt yet"
        super().__init__(f"interrupted; {kept}")


class StopRequest:
    """While it is entered, the first signal to stop only sets `asked`; the second one ends the run at once.

    Args: stop_after: ask after so many batches, for tests.

    Attributes: checkpoint: the latest one, to be kept up to date by whoever writes them.
    """

    def __init__(self, stop_after: int | None = None) -> None:
        self.asked = False
        self.checkpoint = Path()
        self._left = stop_after
        self._open = ExitStack()

    def __enter__(self) -> StopRequest:
        self._open.enter_context(signals.answered(self._note))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def listen(self) -> None:
        """Again, where a library has set handlers of its own since."""
        self._open.enter_context(signals.answered(self._note))

    def count(self) -> None:
        """A batch is done."""
        if self._left is not None:
            self._left -= 1
            self.asked = self.asked or self._left <= 0

    def _note(self, number: int) -> None:
        if self.asked:
            raise Interrupted(self.checkpoint)
        self.asked = True


def write_log(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """One line per epoch; written anew each time, so that a resumed run has every epoch once."""
    if history:
        names = list(dict.fromkeys(name for line in history for name in line))  # stages differ in some
        values = [[line.get(name, "") for name in names] for line in history]
        write_csv(
            path, [names, *([f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in values)]
        )


def best_epoch(figures: Sequence[float]) -> int | None:
    """The first of the highest figures, counted from 0; None if none of them is a number.

    >>> best_epoch([float("nan"), 0.5, 0.7, 0.7])
    2
    """
    known = [figure for figure in figures if not math.isnan(figure)]
    return figures.index(max(known)) if known else None
