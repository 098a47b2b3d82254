# SPDX-License-Identifier: MIT
"""Names of a package that are imported when they are first asked for, and when all of them are."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any


def late(
    package: str, names: Sequence[str], rooms: Sequence[str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of `package`, whose `names` are defined in its `rooms`.

    The command line answers a signal, a typing error and ``--help`` before torch is there, although every
    module of a package imports the package first (PEP 562).

    Args:
        package: its ``__name__``.
        names: what it exports.
        rooms: its subpackages, the lowest first; they can be asked for as attributes, too.
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
    """Whether the program is the command `crfrnn`, which answers help and mistakes without torch."""
    program = next(iter(getattr(sys, "argv", ())), "")
    if program == "-m":  # Python is still looking for the module that it will run
        return any(word in ("crfrnn", "crfrnn.cli") for word in sys.orig_argv[1:])
    return Path(program).stem == "crfrnn"
