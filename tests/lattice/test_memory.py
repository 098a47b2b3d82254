# SPDX-License-Identifier: MIT
"""Memory that the core or the C library keeps is used again, and can be released."""

from __future__ import annotations

import os
import platform
import subprocess
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


# In a process of its own: the allocator's settings last. Page faults are counted, since times vary.
TEMPORARIES = """
import resource, sys
import torch
from crfrnn import keep_memory, release_memory
from test_memory import resident

kept = keep_memory() if sys.argv[1] == "keep" else False
def use():
    return float(torch.ones(10 * 2**20).sum())  # 40 MiB
use(), use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    use()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
held = resident()
release_memory()
print(kept, faults, held - resident())
"""
gnu = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library has the settings")


def temporaries(how: str, **variables: str) -> tuple[bool, int, float]:
    """Whether memory is kept, the page faults of 20 tensors of 40 MiB one after another, and MiB released."""
    given = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_T"))}
    done = subprocess.run(
        [sys.executable, "-c", TEMPORARIES, how], capture_output=True, text=True, check=True,
        env={**given, "PYTHONPATH": str(Path(__file__).parent), **variables},
    )  # fmt: skip
    kept, faults, released = done.stdout.split()
    return kept == "True", int(faults), float(released)


@gnu
def test_kept_blocks_are_used_again_without_new_pages() -> None:
    _, without, _ = temporaries("not")
    kept, faults, released = temporaries("keep")
    pages = 10 * 2**20 * 4 // os.sysconf("SC_PAGE_SIZE")
    assert without > 15 * pages
    assert kept and faults < 3 * pages  # another small block may take a part of the first one's place
    assert released > 35


@gnu
def test_the_allocator_of_users_who_configure_it_is_left_alone() -> None:
    assert not temporaries("keep", MALLOC_TOP_PAD_="1000000")[0]
    assert not temporaries("keep", GLIBC_TUNABLES="glibc.malloc.top_pad=1000000")[0]
