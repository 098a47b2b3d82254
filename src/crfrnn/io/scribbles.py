# SPDX-License-Identifier: MIT
"""Label maps and scribbles with unknown pixels, from pictures and from arrays of integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crfrnn.io.arrays import MAX_BYTES, read_array
from crfrnn.io.files import FileError, PathLike
from crfrnn.io.images import MAX_PIXELS, decode, stored_as, stored_numbers
from crfrnn.io.palette import VOID, ask_about_white, check_labels, read_label_png, voc_palette

FREE = -1  # a pixel whose label is not known, as the `clamp` argument of the CRF counts
BLACK = (0, 0, 0)


def read_label_map(
    path: PathLike,
    num_labels: int,
    *,
    unknown: int | None = None,
    key: str | None = None,
    role: str = "unary",
    paper: bool = False,
) -> NDArray[np.int64]:
    """Read labels per pixel, Int64[H, W] with -1 where they are unknown.

    Args:
        path: an indexed or grey PNG, or an array [H, W] of integers or bool in .npy, .npz or .pt.
        num_labels: L; labels are 0..L-1.
        unknown: the value of pixels without a label (-1 means that too); it must not be a label itself.
            None: 255, but a map of nothing but 0 and 255 is refused, since it may be black and white.
        key: which entry of an .npz file or of a dict in a .pt file.
        paper: a map of 255 alone is welcome then too, as where nobody scribbled.

    Raises:
        ValueError: an unusable file, labels out of range, `unknown` among the labels.
    """
    asked, unknown = unknown is None, _unknown(unknown, num_labels)
    if Path(path).suffix.lower() == ".png":
        values: NDArray[Any] = read_label_png(path, role=role)
    else:
        values = read_array(path, role, key=key, max_bytes=MAX_BYTES // 8, check=_expect_labels(path, role))
    labels = values.astype(np.int64)
    labels = labels[0] if labels.ndim == 3 else labels
    if asked and num_labels > 1:
        ask_about_white(labels, role, path, paper=paper)
    labels[labels == unknown] = FREE
    check_labels(labels, num_labels, path, role, void=FREE)
    return labels


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
    """Read scribbles, Int64[H, W] with -1 where nobody scribbled.

    Three forms are told apart by the picture's own type, never by its content:

    - indexed or grey PNG, integer array: the value is the label; `unknown` (255) and transparent are unknown;
    - colour PNG with transparency: less than half opaque is unknown, elsewhere the colour is looked up in
      `palette` (so an opaque black is label 0 of the VOC palette);
    - colour PNG without transparency: `unknown_colour` (black) is unknown, the rest is looked up.

    In colour pictures the palette's void colour (VOC: 224, 224, 192) is unknown too. Every other colour is
    refused: soft edges of a brush would become labels nobody chose.

    Args:
        path, num_labels, unknown, key: as in `read_label_map`.
        unknown_colour: RGB of unscribbled paper where nothing is transparent; None where no colour is.
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
            ask_about_white(labels[opaque], role, path, paper=bool(opaque.all()))  # strokes are no paper
        labels[(labels == _unknown(unknown, num_labels)) | ~opaque] = FREE
        check_labels(labels, num_labels, path, role, void=FREE)
        return labels
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


def _unknown(unknown: int | None, num_labels: int) -> int:
    value = VOID if unknown is None else unknown
    if 0 <= value < num_labels:
        remedy = f"use 255 or, with more than 255 labels, -1; if {value} is the void one, take fewer labels"
        raise ValueError(
            f"unknown: expected a value outside the labels 0..{num_labels - 1}, got {value}; {remedy}"
        )
    return value


def _seen_through(
    picture: Image.Image, path: PathLike, role: str
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Labels of an indexed or grey picture with transparency, and where it is at least half opaque."""
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


def _expect_labels(path: PathLike, role: str):
    def check(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        if dtype.kind not in "iub":
            raise FileError(
                role,
                path,
                "integer labels",
                f"dtype {dtype}",
                "for a map of whole numbers save labels.astype('uint8'), for scores use kind='logits' or "
                "'probabilities'",
            )
        if not (len(shape) == 2 or (len(shape) == 3 and shape[0] == 1)) or 0 in shape:
            raise FileError(
                role, path, "labels [H, W] or [1, H, W]", f"shape {shape}", "save one picture a file"
            )

    return check
