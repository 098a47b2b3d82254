# SPDX-License-Identifier: MIT
"""TIFFs: which forms Pillow reads correctly, which it does not open, and their bit depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from crfrnn.io.files import FileError, PathLike

READ = "a TIFF of 1, 2, 4, 8 or 16 bits without sign (grey where 0 is black: also 12)"
_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANES, _SAMPLE_FORMAT = 258, 259, 262, 277, 284, 339
_WHITE_IS_ZERO, _UNCOMPRESSED, _APART, _SIGNED, _FLOAT = 0, 1, 2, 2, 3  # as TIFF 6.0 numbers them


def bits(picture: Image.Image) -> int:
    """Bits per number in a TIFF, the largest of its channels; 0 for other formats."""
    tags = _tags(picture)
    return 0 if tags is None else int(np.max(tags.get(_BITS, 1)))


def load(picture: Image.Image, role: str, path: PathLike) -> None:
    """Decode a TIFF by reading it, not mapping it: Pillow 12 maps rotated grey TIFFs with the wrong width.

    Raises: ValueError for channels in separate planes in a form that Pillow 12 misreads. By experiment it
    reads 8 bits and, compressed, 16 bits correctly, with three or more channels or one whose 0 is black.
    """
    tags = _tags(picture)
    if tags is not None and tags.get(_PLANES) == _APART:
        depth, samples = bits(picture), tags.get(_SAMPLES, 1)
        right = depth == 8 or (depth == 16 and tags.get(_COMPRESSION, 1) != _UNCOMPRESSED)
        right &= samples >= 3 or (samples == 1 and tags.get(_PHOTOMETRIC) != _WHITE_IS_ZERO)
        if not right:
            raise FileError(
                role, path, "a TIFF with its channels side by side, pixel by pixel",
                f"{samples} of {depth} bits in separate planes (PlanarConfiguration 2), which Pillow "
                "misreads", "save it interleaved by pixel",
            )  # fmt: skip
    name, picture.filename = getattr(picture, "filename", ""), ""  # type: ignore[attr-defined]
    try:
        picture.load()
    finally:
        picture.filename = name  # type: ignore[attr-defined]


def grey(picture: Image.Image, path: PathLike) -> tuple[int, bool]:
    """The largest number of a deep grey TIFF (0 for others), and whether it is black.

    Raises: ValueError for signed numbers of up to 16 bits.
    """
    tags = _tags(picture)
    if tags is None:
        return 0, False
    depth = bits(picture)
    if _SIGNED in np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1)) and depth <= 16:
        raise FileError(
            "image", path, "numbers of 0 and more", "a TIFF of signed numbers",
            "scale them to 0..255 and save as 8 bits, since the file does not state their range",
        )  # fmt: skip
    # Pillow itself inverts those of up to 8 bits.
    return (2**depth - 1 if picture.mode.startswith("I;16") else 0), tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def unknown_form(path: Path) -> str | None:
    """The bits and colour type of a TIFF that Pillow does not open; None for other files."""
    try:
        with path.open("rb") as stream:
            head = stream.read(8)
            if head[:4] not in (b"II*\0", b"MM\0*"):
                return None
            tags = TiffImagePlugin.ImageFileDirectory_v2(head)
            stream.seek(tags.next)
            tags.load(stream)
        depth = "/".join(str(b) for b in np.atleast_1d(tags.get(_BITS, 1)).tolist())
        sign = {_SIGNED: " signed", _FLOAT: " floating-point"}.get(
            int(np.max(tags.get(_SAMPLE_FORMAT, 1))), ""
        )
        return f"{depth} bits{sign} (photometric interpretation {tags.get(_PHOTOMETRIC)})"
    except Exception:  # damaged further: keep Pillow's message
        return None


def _tags(picture: Image.Image) -> Any:
    return getattr(picture, "tag_v2", None)
