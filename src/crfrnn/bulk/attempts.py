# SPDX-License-Identifier: MIT
"""Counts attempts per picture, to give up on one that kills every process that works on it."""

from __future__ import annotations

from collections.abc import Callable

MOST = 4  # more than one, since a process may die for reasons unrelated to the picture
_counter: list[Callable[[str], int]] = []


def count_by(counter: Callable[[str], int]) -> None:
    """Make `begun` use a counter that survives this process."""
    _counter[:] = [counter]


def begun(name: str) -> int:
    """Record the start of work on a picture and return the number of starts; 1 without a counter."""
    return _counter[0](name) if _counter else 1
