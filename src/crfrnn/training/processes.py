# SPDX-License-Identifier: MIT
"""Training with several processes: choosing the one that writes, and closing their group."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from torch import distributed

from crfrnn.training.run_files import Interrupted


def is_first() -> bool:
    """Whether this process is the first of all, by the launcher's environment; only that one writes.

    torchrun numbers processes over all machines (RANK), Lightning's launcher per machine (NODE_RANK,
    LOCAL_RANK), Slurm over the job (SLURM_PROCID). Without any of these there is one process.
    """
    known = os.environ
    if "RANK" in known:
        return int(known["RANK"]) == 0
    if "LOCAL_RANK" in known:
        return int(known["LOCAL_RANK"]) == int(known.get("NODE_RANK", 0)) == 0
    return int(known.get("SLURM_PROCID", 0)) == 0


@contextmanager
def closed_group() -> Iterator[None]:
    """Close a process group opened in the block at its end, so that the threads of its backend end.

    Lightning leaves a gloo group open. Its threads then run until the interpreter exits, and a thread that
    drops the last reference to a tensor at exit aborts the process ("terminate called without an active
    exception", https://github.com/pytorch/pytorch/issues/190489). After an error nothing is closed, because
    other
        processes may be waiting in the group, which could deadlock.
    """
    if not distributed.is_available() or distributed.is_initialized():
        yield  # one process, or the caller's group
        return
    try:
        yield
    except Interrupted:
        if distributed.is_initialized():
            distributed.destroy_process_group()
        raise
    if distributed.is_initialized():
        distributed.barrier()  # all processes see the files of the first one
        distributed.destroy_process_group()
