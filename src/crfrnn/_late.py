# SPDX-License-Identifier: MIT
"""Lazy imports: names of a package that are imported at their first use."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any


def late(
    package: str, names: Sequence[str], rooms: Sequence[str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of `package`, whose `names` are defined in its subpackages `rooms`.

    This lets the command line handle signals, usage errors and ``--help`` before importing torch, although
    every module of a package imports the package first (PEP 562).

    Args:
        package: its ``__name__``.
        names: its exported names.
        rooms: its subpackages, the lowest first; they are also available as attributes.
    """

    def __getattr__(name: str) -> Any:
        if name in rooms:
            return import_module(f"{package}.{name}")
        if name in names:
            for room in rooms:
                found = import_module(f"{package}.{room}")
                if hasattr(found, name):
                    value = getattr(found, name)
                    setattr(sys.modules[package], name, value)
                    return value
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *names, *rooms})

    return __getattr__, __dir__


def for_command_line() -> bool:
    """Whether the program is the command `crfrnn`, which handles help and usage errors without torch."""
    program = next(iter(getattr(sys, "argv", ())), "")
    if program == "-m":  # Python has not yet resolved the module to run
        return any(word in ("crfrnn", "crfrnn.cli") for word in sys.orig_argv[1:])
    return Path(program).stem == "crfrnn"
