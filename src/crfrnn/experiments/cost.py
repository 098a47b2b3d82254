# SPDX-License-Identifier: MIT
"""How much memory a call takes at its peak, in a process of its own."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _kibibytes(entry: str) -> int:
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{entry}:"))


def _measured(pipe: Any, warm_up: Callable[[], object], work: Callable[[], object]) -> None:
    torch.set_num_threads(1)
    warm_up()
    _RESET.write_text("5", encoding="ascii")  # the peak so far is forgotten
    before = _kibibytes("VmRSS")
    work()
    pipe.send((_kibibytes("VmHWM") - before) / 1024)


def peak_memory(warm_up: Callable[[], object], work: Callable[[], object]) -> float:
    """MiB that `work` takes above what is held after `warm_up`, on one thread; NaN where it cannot be told.

    Args: both are pickled: functions of modules, or `functools.partial` of such.

    Linux alone tells the peak of a process and forgets it on demand.
    """
    if not _RESET.exists():
        return math.nan
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(theirs, warm_up, work))
    process.start()
    theirs.close()
    try:
        return float(ours.recv())
    except EOFError:  # it has failed, and said why on the error stream
        return math.nan
    finally:
        process.join()
