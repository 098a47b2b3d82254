# SPDX-License-Identifier: MIT
"""The number of requests being processed, so that the server can stop after the last."""

from __future__ import annotations

import threading


class Work:
    """What is being computed for all clients.

    A thread that computes while the interpreter ends is unwound through native code, which aborts the
    process: the server ends when all of them are done.

    >>> work = Work()
    >>> with work:
    ...     work.close(timeout=0)
    False
    >>> work.close()
    True
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0
        self._closed = False

    def __enter__(self) -> None:
        with self._changed:
            if self._closed:
                raise ValueError(
                    "the page: expected a running server, got a request while it stops; start it again"
                )
            self._running += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._running -= 1
            self._changed.notify_all()

    def close(self, timeout: float | None = None) -> bool:
        """Begin nothing more, and wait for what runs; whether all of it is done."""
        with self._changed:
            self._closed = True
            return self._changed.wait_for(lambda: self._running == 0, timeout)
