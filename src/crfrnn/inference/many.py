# SPDX-License-Identifier: MIT
"""The loop over many pictures: it skips finished ones, records failures, and can use several processes."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from crfrnn.inference.workers import Result, work_through
from crfrnn.io.problems import by_kind
from crfrnn.lattice.validate import InputWarning, warn

Job = TypeVar("Job")
Work = Callable[[Sequence[Any]], Sequence[Any]]
Progress = Callable[[int, int], None]  # done, total
# Calls the picklable function on every list of jobs, anywhere and in any order; yields results as they
# arrive.
Engine = Callable[[Callable[[Sequence[Any]], list[Result]], Sequence[Sequence[Any]]], Iterator[Result]]


@dataclass
class Tally:
    """Progress of a run over many pictures; valid during the run and after a signal ended it.

    Attributes:
        total: number of pictures.
        done: number of processed pictures.
        skipped: number of pictures finished before.
        failed: reason by the name of the picture.
        stopped: whether a signal ended the run.
    """

    total: int = 0
    done: int = 0
    skipped: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    stopped: bool = False

    def problems(self) -> list[str]:
        """A line for each kind of problem, and the number of failed pictures; empty if none failed.

        >>> Tally(3, failed={"a.png": "image: got 7 rows", "b.png": "image: got 9 rows"}).problems()
        ['a.png: image: got 7 rows (2 of this kind: a.png, b.png)', '2 of 3 pictures failed']
        """
        if not self.failed:
            return []
        named = dict(sorted(self.failed.items()))  # processes finish in any order
        lines = by_kind([f"{name}: {reason}" for name, reason in named.items()], list(named))
        return [*lines, f"{len(self.failed)} of {self.total} pictures failed"]


def many(
    jobs: Iterable[Job],
    work: Callable[[Sequence[Job]], Sequence[Any]],
    tally: Tally | None = None,
    *,
    name: Callable[[Job], str] = str,
    finished: Callable[[Job], bool] = lambda job: False,
    found: Callable[[Job, Any], None] | None = None,
    lost: Callable[[Job, str], None] | None = None,
    batch: int = 1,
    processes: int = 1,
    engine: Engine | None = None,
    progress: Progress | None = None,
    strict: bool | tuple[type[Exception], ...] = False,
) -> Tally:
    """Process all jobs that are not finished.

    Args:
        jobs: one per picture, with unique names.
        work: does up to `batch` jobs and returns a value for each. If several fail together, each is retried
            alone. With more than one process or an engine it must be picklable.
        tally: updated during the run, so that it is valid if an exception ends the run; None: a new one.
        name: function that names a job in reports of failures.
        finished: function that decides whether a job can be skipped.
        found: called in this process with each finished job and its value.
        lost: called in this process with each failed job and the reason.
        processes: number of processes of one thread each; 1 works in this process.
        engine: runs the work elsewhere, instead of `processes`.
        progress: called with (pictures done, total) after each.
        strict: exceptions of these types end the run; True: all types.

    Returns:
        The tally.

    >>> many([1, 0, 2], lambda jobs: [6 // job for job in jobs]).failed
    {'0': 'integer division or modulo by zero'}
    """
    listed = list(jobs)
    tally = Tally() if tally is None else tally
    tally.total = len(listed)
    todo = [job for job in listed if not finished(job)]
    tally.skipped = len(listed) - len(todo)
    if progress is not None and tally.skipped:
        progress(tally.skipped, tally.total)
    chunks = [todo[i : i + batch] for i in range(0, len(todo), batch)]
    ending = strict if isinstance(strict, tuple) else (Exception,) if strict else ()
    call = functools.partial(_recorded, work, ending)
    if engine is not None:
        results = engine(call, chunks)
    elif processes > 1 and len(chunks) > 1:
        results = work_through(call, chunks, min(processes, len(chunks)))
    else:
        results = (result for chunk in chunks for result in _caught(work, ending, chunk))
    for result in results:
        for text in result.warnings:
            warn(text)
        if result.error is None:
            tally.done += 1
            if found is not None:
                found(result.job, result.value)
        else:
            tally.failed[name(result.job)] = result.error
            if lost is not None:
                lost(result.job, result.error)
        if progress is not None:
            progress(tally.skipped + tally.done + len(tally.failed), tally.total)
    return tally


def processes_for(asked: int | None, device: str, jobs: int) -> int:
    """The number of processes: as given, else one per processor but at most one per job; on a GPU one."""
    if asked is not None and asked < 1:
        raise ValueError(f"processes: expected at least 1, got {asked}")
    if torch.device(device).type != "cpu":
        if asked not in (None, 1):
            raise ValueError(f"processes: expected 1 on {device}, got {asked}; raise batch instead")
        return 1
    if asked is not None:
        return asked
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(processors, jobs))


def _caught(work: Work, ending: tuple[type[Exception], ...], jobs: Sequence[Any]) -> list[Result]:
    try:
        return [Result(job, value) for job, value in zip(jobs, work(jobs), strict=True)]
    except Exception as error:  # any exception of a decoder is a failure of this picture
        if len(jobs) > 1:  # one of them fails, or memory is too small for all
            return [result for job in jobs for result in _caught(work, ending, [job])]
        if isinstance(error, ending):
            raise
        return [Result(jobs[0], error=str(error).strip() or type(error).__name__)]


def _recorded(work: Work, ending: tuple[type[Exception], ...], jobs: Sequence[Any]) -> list[Result]:
    """In a worker process, return warnings with the first result instead of printing them."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", InputWarning)
        first, *others = _caught(work, ending, jobs)
    return [first._replace(warnings=tuple(dict.fromkeys(str(one.message) for one in seen))), *others]
