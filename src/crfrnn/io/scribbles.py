# SPDX-License-Identifier: MIT
"""Scribbles: labels of a few pixels, from pictures and from arrays of whole numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crfrnn.io.files import FileError, PathLike
from crfrnn.io.images import MAX_PIXELS, decode, stored_as, stored_numbers
from crfrnn.io.labels import FREE, ask_about_white, known_labels, read_label_map
from crfrnn.io.palette import VOID, voc_palette

BLACK = (0, 0, 0)


def read_scribbles(
    path: PathLike,
    num_labels: int,
    *,
    unknown: int | None = None,
    unknown_colour: tuple[int, int, int] | None = BLACK,
    palette: NDArray[np.uint8] | None = None,
    key: str | None = None,
    role: str = "unary",
) -> NDArray[np.int64]:
    """Read scribbles, Int64[H, W] with -1 where there is no scribble.

    Three forms are distinguished by the picture's type, never by its content:

    - indexed or grey PNG, integer array: the value is the label; `unknown` (255) and transparency: no label;
    - colour PNG with transparency: pixels less than half opaque are unknown, others are looked up in
    `palette` (so an opaque black is label 0 of the VOC palette);
    - colour PNG without transparency: `unknown_colour` (black) is unknown, other colours are looked up.

    In colour pictures the palette's void colour (VOC: 224, 224, 192) is unknown too. Every other colour is
    rejected: the soft edges of a brush would become labels that were not drawn.

    Args:
        path, num_labels, unknown, key: as in `read_label_map`.
        unknown_colour: RGB of the background if nothing is transparent; None if there is no such colour.
        palette: UInt8[K, 3], the colour of each label; the VOC colours by default.

    Raises:
        ValueError: an unusable file, labels out of range, colours outside the palette.
    """
    if Path(path).suffix.lower() != ".png":
        return read_label_map(path, num_labels, unknown=unknown, key=key, role=role, paper=True)
    picture = decode(path, role, formats=("PNG",), max_pixels=MAX_PIXELS)
    if picture.mode in ("P", "L", "LA", "1") or picture.mode.startswith("I"):
        if not picture.has_transparency_data:
            return read_label_map(path, num_labels, unknown=unknown, role=role, paper=True)
        labels, opaque = _seen_through(picture, path, role)
        if unknown is None and num_labels > 1:
            ask_about_white(labels[opaque], role, path, paper=bool(opaque.all()))
        return known_labels(labels, num_labels, unknown, valid=opaque, role=role, path=path)
    pixels = np.asarray(picture.convert("RGBA"))
    codes = _codes(pixels[..., :3])
    if picture.has_transparency_data:
        free = pixels[..., 3] < 128
    elif unknown_colour is not None:
        free = codes == _codes(np.asarray(unknown_colour))
    else:
        free = np.zeros(codes.shape, bool)
    return _look_up(
        codes, free, voc_palette() if palette is None else np.asarray(palette), num_labels, path, role
    )


def _seen_through(
    picture: Image.Image, path: PathLike, role: str
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Labels of an indexed or grey picture with transparency, and the mask of pixels at least half opaque."""
    if picture.mode == "LA":
        if stored_as(picture) != "LA":
            raise FileError(
                role, path, "8 bits per channel", f"grey with transparency as {stored_as(picture)}",
                "save it with 8 bits, or indexed",
            )  # fmt: skip
        labels, alpha = np.moveaxis(np.asarray(picture), -1, 0)
        return labels.astype(np.int64), alpha >= 128
    labels = stored_numbers(picture).astype(np.int64)
    if picture.mode.startswith("I"):  # one number is transparent
        return labels, labels != picture.info["transparency"]
    return labels, np.asarray(picture.convert("RGBA"))[..., 3] >= 128


def _codes(rgb: NDArray[Any]) -> NDArray[np.int64]:
    return rgb.astype(np.int64) @ np.array([65536, 256, 1])


def _look_up(
    codes: NDArray[np.int64],
    free: NDArray[np.bool_],
    palette: NDArray[np.uint8],
    num_labels: int,
    path: PathLike,
    role: str,
) -> NDArray[np.int64]:
    if len(palette) < num_labels:
        raise ValueError(f"palette: expected a colour for each of {num_labels} labels, got {len(palette)}")
    table = {int(code): label for label, code in enumerate(_codes(palette[:num_labels]))}
    if len(palette) > VOID >= num_labels:
        table.setdefault(int(_codes(palette[VOID])), FREE)
    present, inverse = np.unique(np.where(free, -1, codes), return_inverse=True)
    strange = [int(code) for code in present if code >= 0 and int(code) not in table]
    if strange:
        shown = ", ".join(str((code >> 16, code >> 8 & 255, code & 255)) for code in strange[:4])
        raise FileError(
            role, path, f"scribbles in the palette's colours of {num_labels} labels",
            f"{len(strange)} other colours ({shown}{', …' if len(strange) > 4 else ''})",
            "draw without soft edges, pass palette= or unknown_colour=, or save an indexed PNG",
        )  # fmt: skip
    labels = np.array([FREE if code < 0 else table[int(code)] for code in present], np.int64)
    return labels[inverse.reshape(codes.shape)]
