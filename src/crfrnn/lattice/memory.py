# SPDX-License-Identifier: MIT
"""The memory that the native core keeps from call to call."""

from __future__ import annotations

import contextlib


def release_memory() -> None:
    """Give the system back what the native core keeps and does not use: up to 256 MiB.

    Clearing fresh pages is a tenth to a fifth of a call, so the core keeps large blocks for the next one.
    Call this after the last one, in a process that goes on with other work; the next call takes its memory
    anew. On Linux the pages go back at once; elsewhere nothing is done.

    >>> release_memory()
    """
    with contextlib.suppress(ImportError):  # without the native core nothing is kept
        from crfrnn import _native

        _native.release_kept_memory()
