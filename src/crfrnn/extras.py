# SPDX-License-Identifier: MIT
"""The line that installs an optional part of the package: the remedy that errors name."""

from __future__ import annotations


def install_line(extra: str) -> str:
    """What installs the packages of `extra`, as pyproject.toml lists them.

    There is no release on a package index yet, so it names the sources.

    >>> install_line("geo")
    "pip install '.[geo]' in the folder of crfrnn's sources"
    """
    return f"pip install '.[{extra}]' in the folder of crfrnn's sources"
