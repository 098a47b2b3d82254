# SPDX-License-Identifier: MIT
"""Progress of a command: a bar on a terminal, occasional lines elsewhere and in a log file."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

FIRST = 5.0  # seconds before the first line, and least time between lines
SOON = 0.1  # seconds; too short to estimate a rate
SHARE = 0.05  # further lines wait for this share of the elapsed time: about 150 lines per day
Clock = Callable[[], float]


@dataclass
class _Task:
    """A task: description, start, amount done, time of its change, and amount at the last line."""

    description: str
    total: int | None
    began: float
    changed: float
    done: int = 0
    said: int | None = None


class Lines:
    """Lines such as ``refine: 120 of 468, 3.1 per second, 1 min 52 s left``, at a limited rate.

    Args:
        write: called with a line.
        clock: seconds, for tests.
    """

    def __init__(self, write: Callable[[str], None], clock: Clock = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._began = clock()
        self._next = self._began + FIRST

    def add(self, description: str, total: int | None) -> _Task:
        now = self._clock()
        return _Task(description, total, began=now, changed=now)

    def update(self, task: _Task, description: str | None, done: int | None, total: int | None) -> None:
        now = self._clock()
        if done is not None and done < task.done:  # the next epoch, fold or trial
            task.began, task.said = task.changed, None
        task.description = task.description if description is None else description
        task.total = task.total if total is None else total
        if done is not None:
            task.done, task.changed = done, now
        ended = task.said not in (None, task.done) and task.done == task.total
        if now < self._next and not ended:
            return
        self._next = now + max(FIRST, SHARE * (now - self._began))
        task.said = task.done
        self._write(_line(task, now))


def _line(task: _Task, now: float) -> str:
    of = "" if task.total is None else f" of {task.total}"
    parts = [f"{task.description}: {task.done}{of}"]
    took = now - task.began
    if task.done > 0 and took >= SOON:
        rate = task.done / took
        parts.append(
            f"{rate:.{'0f' if rate >= 10 else '2g'}} per second" if rate >= 1 else f"{1 / rate:.2g} s each"
        )
        if task.total is not None and task.done < task.total:
            parts.append(f"{_span((task.total - task.done) / rate)} left")
    return ", ".join(parts)


def _span(seconds: float) -> str:
    """A duration in words.

    >>> _span(7.2), _span(100), _span(7300)
    ('7 s', '1 min 40 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@dataclass
class Bar:
    """Shows tasks: a transient bar on a terminal, `Lines` elsewhere; always lines in a log file.

    Attributes:
        console: where it is shown.
        log: file for the lines, each preceded by the time, or None.
    """

    console: Console
    log: Path | None = None
    _tasks: dict[int, tuple[Any, list[_Task]]] = field(default_factory=dict, repr=False)

    def __enter__(self) -> Bar:
        terminal = self.console.is_terminal
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=self.console, transient=True, disable=not terminal)
        self._lines = [] if terminal else [Lines(self._show)]
        if self.log is not None:
            self._lines.append(Lines(self._append))
        self._bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.__exit__(*error)

    def add_task(self, description: str, total: int | None = None) -> int:
        number = self._bar.add_task(description, total=total)
        self._tasks[number] = number, [lines.add(description, total) for lines in self._lines]
        return number

    def update(
        self, task: int, *, description: str | None = None, completed: int | None = None,
        total: int | None = None,
    ) -> None:  # fmt: skip
        number, shown = self._tasks[task]
        known = {"description": description, "completed": completed, "total": total}
        self._bar.update(number, **{k: v for k, v in known.items() if v is not None})
        for lines, one in zip(self._lines, shown, strict=True):
            lines.update(one, description, completed, total)

    def remove_task(self, task: int) -> None:
        self._bar.remove_task(self._tasks.pop(task)[0])

    def counter(self, description: str, total: int | None = None) -> Callable[[int, int], None]:
        """A task as a callback (done, total)."""
        task = self.add_task(description, total)
        return lambda done, total: self.update(task, completed=done, total=total)

    def _show(self, line: str) -> None:
        self.console.print(line, markup=False)

    def _append(self, line: str) -> None:
        if self.log is not None and self.log.parent.is_dir():
            with self.log.open("a", encoding="utf-8") as stream:
                stream.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}\n")
