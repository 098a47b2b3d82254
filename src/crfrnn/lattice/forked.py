# SPDX-License-Identifier: MIT
"""Restricts a forked child to one thread: on Linux a parallel loop in it would deadlock.

libgomp reuses its threads for all parallel loops. `fork` copies only the calling thread, but also the record
of the others, so the first loop that is large enough to be parallel, torch's or ours, waits for threads that
do not exist. torch limits its DataLoader workers in the same way. Python before 3.14 forks processes by
default on Linux; spawned children initialise OpenMP again and keep all threads.
"""

from __future__ import annotations

import os
import sys

import torch


def _one_thread() -> None:
    torch.set_num_threads(1)


if sys.platform.startswith("linux"):  # OpenMP on other systems restarts its threads in the child
    os.register_at_fork(after_in_child=_one_thread)
