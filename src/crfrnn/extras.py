# SPDX-License-Identifier: MIT
"""Optional dependencies: importing them, and the command that installs them."""

from __future__ import annotations

import importlib
from typing import Any


def optional(module: str, extra: str, purpose: str, package: str | None = None) -> Any:
    """Import a module of a package that the extra `extra` installs.

    Args: purpose: what needs it, for the message; package: its name if it differs from the module's.

    Raises: ImportError with the command that installs it.

    >>> optional("numpy", "train", "arrays").__name__
    'numpy'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = package or module.split(".")[0]
        raise ImportError(
            f"{purpose}: expected the package {name}, got none; {install_line(extra)}"
        ) from error


def install_line(extra: str) -> str:
    """The command that installs the packages of `extra` in pyproject.toml.

    There is no release on a package index yet, so it installs from the sources.

    >>> install_line("geo")
    "pip install '.[geo]' in the folder of crfrnn's sources"
    """
    return f"pip install '.[{extra}]' in the folder of crfrnn's sources"
