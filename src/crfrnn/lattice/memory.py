# SPDX-License-Identifier: MIT
"""The memory that the native core keeps from call to call."""

from __future__ import annotations

import contextlib


def release_memory() -> None:
    """Return to the system the memory that the native core keeps and does not use, up to 256 MiB.

    Clearing fresh pages takes a tenth to a fifth of a call, so the core keeps large blocks for the next call.
    Use this after the last one, in a process that continues with other work. On Linux the pages are returned
    at once; elsewhere nothing is done.

    >>> release_memory()
    """
    with contextlib.suppress(ImportError):  # without the native core nothing is kept
        from crfrnn import _native

        _native.release_kept_memory()
