# SPDX-License-Identifier: MIT
"""The memory that the native core keeps can be released, and is allocated again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from crfrnn import CRFRNN, release_memory

MIB = 2**20


def resident() -> float:
    """Resident memory of this process, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / MIB


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives pages back at once")
def test_kept_memory_can_be_released() -> None:
    crf = CRFRNN(21, iterations=1)
    image, unary = torch.rand(1, 3, 300, 400) * 255, torch.randn(1, 21, 300, 400)
    with torch.no_grad():
        before = crf(unary, image)
        kept = resident()
        release_memory()
        assert kept - resident() > 15  # unary and marginals alone are 10 MiB each
        assert torch.equal(crf(unary, image), before)


def test_releasing_twice_and_with_nothing_kept() -> None:
    release_memory()
    release_memory()
