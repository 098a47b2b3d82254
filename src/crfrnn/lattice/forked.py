# SPDX-License-Identifier: MIT
"""A forked child computes with one thread: on Linux a second one would wait for ever.

libgomp keeps its threads from one parallel loop to the next. `fork` copies the caller alone; the child still
believes in the others, and the first loop that is large enough to be shared out, torch's or ours, never ends.
One thread needs no pool. torch's own DataLoader workers are set so too. Python says "fork" for its processes
on Linux before 3.14; children that are spawned start clean and keep all threads.
"""

from __future__ import annotations

import os
import sys

import torch


def _one_thread() -> None:
    torch.set_num_threads(1)


if sys.platform.startswith("linux"):  # other systems' OpenMP starts its threads anew in the child
    os.register_at_fork(after_in_child=_one_thread)
