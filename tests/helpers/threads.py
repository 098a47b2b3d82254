# SPDX-License-Identifier: MIT
"""Set a number of threads temporarily (all tests begin with one); the names of running threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def thread_names() -> list[str]:
    """Threads of this process according to the system; empty where it does not report them."""
    return sorted(path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm"))
