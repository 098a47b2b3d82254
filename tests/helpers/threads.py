# SPDX-License-Identifier: MIT
"""A number of threads for a while; all tests begin with one. The names of those that run."""

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
    """Of this process, as the system has them; none where it does not say."""
    return sorted(path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm"))
