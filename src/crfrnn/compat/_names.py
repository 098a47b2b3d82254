# SPDX-License-Identifier: MIT
"""Registers a module of this package under another package's name, for the rest of the process."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from types import ModuleType


def stand_in(
    modules: Mapping[str, ModuleType], bound: Mapping[str, ModuleType], call: str, name: str
) -> None:
    """Register `modules` in `sys.modules`; a RuntimeWarning if the original was imported before.

    Args:
        modules: modules by their import name.
        bound: those whose names other code may have imported from the original.
            call, name: the function that the user called and the package it replaces, for the message.
    """
    held = sorted(key for key, module in bound.items() if sys.modules.get(key) not in (None, module))
    if held:
        warnings.warn(
            f"install: {', '.join(held)} had been imported before; names imported from there still refer to "
            f"the original. Call {call}() before any import of {name}.",
            RuntimeWarning,
            stacklevel=3,
        )
    sys.modules.update(modules)
