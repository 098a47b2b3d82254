# SPDX-License-Identifier: MIT
"""The peak memory of a call, measured in a separate process."""

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
    _RESET.write_text("5", encoding="ascii")  # resets the peak
    before = _kibibytes("VmRSS")
    work()
    pipe.send((_kibibytes("VmHWM") - before) / 1024)


def peak_memory(warm_up: Callable[[], object], work: Callable[[], object]) -> float:
    """Peak MiB of `work` above the memory held after `warm_up`, on one thread; NaN if it cannot be measured.

    Args: both are pickled: functions of modules, or `functools.partial` of such.

    Only Linux reports the peak of a process and can reset it.
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
    except EOFError:  # it failed and printed the reason to stderr
        return math.nan
    finally:
        process.join()
