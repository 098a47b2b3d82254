# SPDX-License-Identifier: MIT
"""Training on several processes: which of them writes, and how their group ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from torch import distributed

from crfrnn.training.run_files import Interrupted


def is_first() -> bool:
    """Whether this process is the first of all, as launchers say it in the environment; that one writes.

    torchrun counts over all machines (RANK), Lightning's launcher per machine (NODE_RANK, LOCAL_RANK), Slurm
    over the job (SLURM_PROCID). Without any of them there is one process.
    """
    known = os.environ
    if "RANK" in known:
        return int(known["RANK"]) == 0
    if "LOCAL_RANK" in known:
        return int(known["LOCAL_RANK"]) == int(known.get("NODE_RANK", 0)) == 0
    return int(known.get("SLURM_PROCID", 0)) == 0


@contextmanager
def closed_group() -> Iterator[None]:
    """The group of processes that is opened inside is closed behind it, and the threads of its backend end.

    Lightning leaves a gloo group open. Its threads then run until the interpreter is gone, and a thread that
    drops the last reference to a tensor meanwhile aborts the process ("terminate called without an active
    exception", https://github.com/pytorch/pytorch/issues/190489). After an error nothing is closed: other
    processes may wait in the group, and this one could wait for them.
    """
    if not distributed.is_available() or distributed.is_initialized():
        yield  # one process, or a group of the caller
        return
    try:
        yield
    except Interrupted:
        if distributed.is_initialized():
            distributed.destroy_process_group()
        raise
    if distributed.is_initialized():
        distributed.barrier()  # what the first process writes is there for all of them
        distributed.destroy_process_group()
