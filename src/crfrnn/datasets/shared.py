# SPDX-License-Identifier: MIT
"""The location of the real pictures, if available."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "CRFRNN_SHARED"


def shared_folder() -> Path | None:
    """The folder ``$CRFRNN_SHARED``, else ``shared`` next to the source checkout, or None.

    If the variable names no existing folder, the result is None: this disables the real data.

    >>> shared_folder() is None or shared_folder().is_dir()
    True
    """
    named = os.environ.get(VARIABLE)
    if named:
        folder = Path(named).expanduser()
        return folder.resolve() if folder.is_dir() else None
    checkout = Path(__file__).resolve().parents[3]  # <checkout>/src/crfrnn/datasets/shared.py
    if not (checkout / "pyproject.toml").is_file():  # an installed package, not a checkout
        return None
    folder = checkout.parent / "shared"
    return folder if folder.is_dir() else None


def voc_person_folder() -> Path | None:
    """The VOC 2012 person subset (``VOCdevkit/VOC2012`` and ``unaries`` in it), or None if absent."""
    shared = shared_folder()
    folder = None if shared is None else shared / "data" / "voc2012-person"
    return folder if folder is not None and folder.is_dir() else None
