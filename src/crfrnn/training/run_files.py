# SPDX-License-Identifier: MIT
"""Stop requests and the log of a training run; importable without Lightning."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from crfrnn import signals
from crfrnn.evaluation.tables import write_csv

# (task: "fit", "validate", "tune"; epoch or trial; pictures done; pictures in total; loss or figure)
Watch = Callable[[str, int, int, int, float], None]
BEST = "best"  # the folder of the best epoch, next to the last one's


class Interrupted(Exception):
    """Training stopped on request after a complete step.

    Attributes: checkpoint: where it resumes; the file does not exist if nothing has been learned yet.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        kept = f"everything so far is in {checkpoint}" if checkpoint.exists() else "nothing is learned yet"
        super().__init__(f"interrupted; {kept}")


class StopRequest:
    """Context in which the first stop signal only sets `asked`, and the second one ends the run immediately.

    Args: stop_after: request a stop after this many batches, for tests.

    Attributes: checkpoint: the latest checkpoint, updated by the code that writes them.
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
        """Install the handlers again, after a library has replaced them."""
        self._open.enter_context(signals.answered(self._note))

    def count(self) -> None:
        """Count a finished batch."""
        if self._left is not None:
            self._left -= 1
            self.asked = self.asked or self._left <= 0

    def _note(self, number: int) -> None:
        if self.asked:
            raise Interrupted(self.checkpoint)
        self.asked = True


def write_log(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """One line per epoch; rewritten each time, so that a resumed run lists every epoch once."""
    if history:
        names = list(dict.fromkeys(name for line in history for name in line))  # columns differ by stage
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
