# SPDX-License-Identifier: MIT
"""One loop over many pictures: finished ones are skipped, failures end nothing, processes share the work."""

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
Progress = Callable[[int, int], None]  # done, in all
# Calls the picklable function on every list of jobs, anywhere and in any order; results as they come.
Engine = Callable[[Callable[[Sequence[Any]], list[Result]], Sequence[Sequence[Any]]], Iterator[Result]]


@dataclass
class Tally:
    """How far a run over many pictures is; it holds while the run goes on and after a signal ended it.

    Attributes:
        total: pictures in all.
        done: that were worked on.
        skipped: that were finished before.
        failed: the reason by the name of the picture.
        stopped: a signal ended the run.
    """

    total: int = 0
    done: int = 0
    skipped: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    stopped: bool = False

    def problems(self) -> list[str]:
        """A line for each kind of problem, and how many pictures failed; empty if none did.

        >>> Tally(3, failed={"a.png": "image: got 7 rows", "b.png": "image: got 9 rows"}).problems()
        ['a.png: image: got 7 rows (2 of this kind: a.png, b.png)', '2 of 3 pictures failed']
        """
        if not self.failed:
            return []
        named = dict(sorted(self.failed.items()))  # processes end in any order
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
    """Work on all jobs that are not finished.

    Args:
        jobs: one for each picture; names must differ.
        work: does up to `batch` jobs and returns a value for each. Where several fail together, each is tried
            alone. With more than one process or an engine it must be picklable.
        tally: is counted on, so that it says how far the run came if an exception ends it; None: a new one.
        name: of a job, for the reasons of failures.
        finished: whether a job need not be done.
        found: called with a job that was done and its value, in this process.
        lost: called with a job that failed and the reason, in this process.
        processes: how many, each with one thread; 1 works in this process.
        engine: runs the work elsewhere, instead of `processes`.
        progress: called with the pictures done and in all, after each.
        strict: exceptions of these types end the run; True: all.

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
    """How many processes: as asked, or one for each processor but no more than jobs; on a GPU one."""
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
    except Exception as error:  # whatever a decoder raises belongs to this picture
        if len(jobs) > 1:  # one of them is to blame, or there is no room for all at once
            return [result for job in jobs for result in _caught(work, ending, [job])]
        if isinstance(error, ending):
            raise
        return [Result(jobs[0], error=str(error).strip() or type(error).__name__)]


def _recorded(work: Work, ending: tuple[type[Exception], ...], jobs: Sequence[Any]) -> list[Result]:
    """In a process of its own, which prints nothing: its warnings are handed back with the first result."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", InputWarning)
        first, *others = _caught(work, ending, jobs)
    return [first._replace(warnings=tuple(dict.fromkeys(str(one.message) for one in seen))), *others]
