# SPDX-License-Identifier: MIT
"""Worker processes that process a list and survive the death of one of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

import torch

from crfrnn.io.temporary import remove_own

Chunk = Sequence[Any]
DIED = "its worker process died, possibly out of memory"
_AHEAD = 2  # chunks per process: one in progress, one queued


class Result(NamedTuple):
    """The value or the error of one job, and its warnings."""

    job: Any
    value: Any = None
    error: str | None = None
    warnings: tuple[str, ...] = ()


Work = Callable[[Chunk], list[Result]]


def work_through(work: Work, chunks: Sequence[Chunk], processes: int) -> Iterator[Result]:
    """Call `work` on all chunks in `processes` spawned processes of one thread; yields results in any order.

    Processes are spawned, not forked: a forked child would wait for OpenMP's threads forever. Work in
        progress when a process dies is retried in one process, job by job, so that only the job that kills
        its process is lost.

    Args:
        work: a picklable function that reports errors and does not raise.
        chunks: lists of jobs.
        processes: at least 1.

    Raises:
        RuntimeError: processes cannot be started.
    """
    waiting = deque(chunks)
    while waiting:
        lost = yield from _pool(work, waiting, processes, _AHEAD)
        suspects: deque[Chunk] = deque([job] for chunk in lost for job in chunk)
        while suspects:
            for chunk in (yield from _pool(work, suspects, 1, 1)):
                yield Result(chunk[0], error=DIED)


def _pool(
    work: Work, waiting: deque[Chunk], processes: int, ahead: int
) -> Generator[Result, None, list[Chunk]]:
    """Work until the queue is empty or a process dies; returns the chunks in progress at that point."""
    running: dict[Future[list[Result]], Chunk] = {}
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin)
    try:
        _start(pool)
        while waiting or running:
            try:
                while waiting and len(running) < ahead * processes:
                    with _ctrl_c_later():
                        running[pool.submit(work, waiting[0])] = waiting[0]
                    waiting.popleft()
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    results = future.result()
                    del running[future]
                    yield from results
            except BrokenProcessPool:
                return list(running.values())
        return []
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(pool: ProcessPoolExecutor) -> None:
    try:
        with _ctrl_c_later():
            first = pool.submit(_one_thread)
        first.result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            "processes: expected processes that start, got none; in a script, call this under "
            "`if __name__ == '__main__':` (a spawned process imports the script), or pass processes=1"
        ) from error


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Defer Ctrl-C in this block and, in a process started in it, until `_begin`.

    A terminal sends it to every process, and one that is still importing would print a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _begin() -> None:
    """Set up a new process: one thread, cleanup of its files, and an exit when its parent ends."""
    _one_thread()
    signal.signal(signal.SIGTERM, _leave)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _leave)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()  # without this, its workers would wait for work forever after it is killed
        remove_own()
        os._exit(1)


def _leave(number: int, frame: FrameType | None) -> None:
    remove_own()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
