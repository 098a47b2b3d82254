# SPDX-License-Identifier: MIT
"""The memory that the native core caches between calls."""

from __future__ import annotations

import contextlib


def release_memory() -> None:
    """Return the unused memory that the native core caches, up to 256 MiB, to the system.

    Clearing new pages takes 10 to 20 % of a call, so the core caches large blocks for the next call. Use this
    after the last one, in a process that continues with other work. On Linux the pages are returned
    immediately; on other systems nothing is done.

    >>> release_memory()
    """
    with contextlib.suppress(ImportError):  # without the native core nothing is cached
        from crfrnn import _native

        _native.release_kept_memory()
