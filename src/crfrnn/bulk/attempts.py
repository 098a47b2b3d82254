# SPDX-License-Identifier: MIT
"""Attempts per picture, counted once a process has died, to give up on one that kills each of them."""

from __future__ import annotations

from collections.abc import Callable

MOST = 4  # more than one, since a process may die for reasons unrelated to the picture
_counter: list[Callable[[str], int]] = []


def count_by(counter: Callable[[str], int] | None) -> None:
    """Make `begun` use a counter that survives this process; None: no counter."""
    _counter[:] = [] if counter is None else [counter]


def begun(name: str) -> int:
    """Record the start of work on a picture; the number of starts that were not survived, and this one.

    1 without a counter.
    """
    return _counter[0](name) if _counter else 1
