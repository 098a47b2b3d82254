# SPDX-License-Identifier: MIT
"""Memory that is kept between calls: by the native core, and by the C library."""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import Any

# Parameters of mallopt, from malloc.h of the GNU C library.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_STEP = 64 * 2**20  # bytes by which the heap grows
_OWN = ("MALLOC_", "GLIBC_TUNABLES")  # variables with which users configure the allocator themselves


def keep_memory() -> bool:
    """Let this process keep freed memory for its next allocations, which makes training steps faster.

    The GNU C library returns every freed block of more than 32 MiB to the system, so the system clears all
    pages of large tensors again in each step: a sixth to a third of the time of a training step on a CPU,
    and of segmenting a photograph. After this call freed memory is reused instead; the process then occupies
    about its highest use so far, until `release_memory` is called. `crfrnn train`, `fit`, `tune`,
    `experiment`, `segment`, `demo` and `app` do this. It changes the allocator of the whole process, so the
    layer does not do it by itself.

    Only for the GNU C library, and only if no variable MALLOC_… or GLIBC_TUNABLES is set; elsewhere nothing
    is changed.

    Returns: whether the process keeps memory.

    Source: mallopt(3), M_MMAP_MAX and M_TRIM_THRESHOLD.

    >>> kept = keep_memory()  # once, before the first large tensor
    """
    library = _gnu_library()
    if library is None or any(name.startswith(_OWN) for name in os.environ):
        return False
    wanted = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, _STEP))  # a threshold of -1: never
    return all([library.mallopt(name, value) for name, value in wanted])


def release_memory() -> None:
    """Return unused memory to the system: up to 256 MiB of the native core, and what `keep_memory` kept.

    Clearing new pages takes 10 to 20 % of a call, so the core caches large blocks for the next call. Use this
    after the last one, in a process that continues with other work. On Linux the pages are returned
    immediately; on other systems nothing is done.

    >>> release_memory()
    """
    with contextlib.suppress(ImportError):  # without the native core nothing is cached
        from crfrnn import _native

        _native.release_kept_memory()
    library = _gnu_library()
    if library is not None:
        library.malloc_trim(0)


def _gnu_library() -> Any:
    """The GNU C library of this process, or None."""
    if os.name != "posix":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
