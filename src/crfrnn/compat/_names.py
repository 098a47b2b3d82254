# SPDX-License-Identifier: MIT
"""The name of another package for a module of this one, for the rest of the process."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from types import ModuleType


def stand_in(
    modules: Mapping[str, ModuleType], bound: Mapping[str, ModuleType], call: str, name: str
) -> None:
    """Register `modules` in `sys.modules`; a RuntimeWarning where the original was imported before.

    Args:
        modules: by the name under which each is to be imported.
        bound: those of them whose names others may have bound from the original.
        call: what the user called, and `name`, the package it is for: both for the message.
    """
    held = sorted(key for key, module in bound.items() if sys.modules.get(key) not in (None, module))
    if held:
        warnings.warn(
            f"install: {', '.join(held)} had been imported before; names bound from there keep the original. "
            f"Call {call}() before any import of {name}.",
            RuntimeWarning,
            stacklevel=3,
        )
    sys.modules.update(modules)
