# SPDX-License-Identifier: MIT
"""Numbers too small for full precision, taken for 0 while an experiment runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Take denormal numbers for 0 in this thread, and leave the thread as it was found.

    Normalised ReLUs leave marginals so small that the processor slows tenfold on them; 0 does as well. The
    caller may need its denormals afterwards.
    """
    # torch sets the mode and does not tell it: half of the smallest normal number does.
    smallest = sys.float_info.min
    found = smallest / 2 == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(found)
