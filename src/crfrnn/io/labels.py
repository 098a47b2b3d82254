# SPDX-License-Identifier: MIT
"""Label maps: indexed or grey PNG and arrays of whole numbers, and the one rule for valid values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crfrnn.io.arrays import MAX_BYTES
from crfrnn.io.axes import MAP, Axes
from crfrnn.io.files import FileError, PathLike, refusal
from crfrnn.io.images import MAX_PIXELS, decode, stored_numbers, write_png
from crfrnn.io.palette import VOID, voc_palette

FREE = -1  # a pixel without a known label, as in the CRF's argument `clamp`


def write_label_png(path: PathLike, labels: Any, palette: NDArray[np.uint8] | None = None) -> None:
    """Write a label map as indexed PNG, atomically.

    Args:
        path: destination; its folder must exist. An existing file is replaced.
        labels, palette: as `label_picture` takes them.

    Raises: as `label_picture`; ValueError for no such folder.

    >>> import tempfile, os
    >>> name = os.path.join(tempfile.mkdtemp(), "a.png")
    >>> write_label_png(name, [[0, 1], [15, 255]])
    >>> read_label_png(name).tolist()
    [[0, 1], [15, 255]]
    """
    write_png(label_picture(labels, palette), path)


def label_picture(labels: Any, palette: NDArray[np.uint8] | None = None) -> Image.Image:
    """A label map as a Pillow picture of indexed colours.

    Args:
        labels: Int[H, W] in 0..255 (numpy or CPU tensor), 255 = void.
        palette: UInt8[K, 3], K ≤ 256; the VOC colours by default.

    Raises:
        ValueError: wrong shape, labels outside 0..255, a malformed palette.
        TypeError: labels that are not integers.

    >>> label_picture([[0, 1], [15, 255]]).mode
    'P'
    """
    values = np.asarray(labels)
    if values.dtype.kind not in "iu":
        raise TypeError(
            f"labels: expected integers, got {values.dtype}; take the argmax over the labels first"
        )
    if values.ndim != 2 or values.size == 0:
        raise ValueError(
            f"labels: expected [H, W] with at least one pixel, got {values.shape}; pass one picture"
        )
    if values.min() < 0 or values.max() > 255:
        raise ValueError(
            f"labels: expected 0..255, got {values.min()}..{values.max()}; "
            "an indexed PNG holds one byte per pixel, save more labels with numpy.save"
        )
    colours = voc_palette() if palette is None else np.asarray(palette)
    if colours.dtype != np.uint8 or colours.shape[1:] != (3,) or not 1 <= len(colours) <= 256:
        raise ValueError(f"palette: expected uint8 [K, 3], K in 1..256, got {colours.dtype} {colours.shape}")
    picture = Image.fromarray(np.ascontiguousarray(values.astype(np.uint8)))
    picture.putpalette(colours.tobytes())
    return picture


def read_label_png(
    path: PathLike, num_labels: int | None = None, *, role: str = "labels", max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Read a label map, UInt8[H, W], from an indexed or grey PNG; the values are the labels, 255 = void.

    The labels are the stored numbers, at 1, 2, 4, 8 or 16 bits.

    Args:
        path: the file.
        num_labels: if given, every label other than 255 must be smaller.
        role: what the caller uses the file for, as named in the message.
        max_pixels: larger pictures are rejected before anything is decoded.

    Raises:
        ValueError: no such file, not a PNG, damaged, too large, in colour, labels out of range.
    """
    picture = decode(path, role, formats=("PNG",), max_pixels=max_pixels)
    if picture.mode not in ("P", "L", "1") and not picture.mode.startswith("I"):
        raise FileError(
            role, path, "an indexed or grey PNG whose values are labels", f"a picture of mode {picture.mode}",
            "save it indexed; a colour drawing is read as kind='scribbles'",
        )  # fmt: skip
    values = stored_numbers(picture)
    if values.dtype != np.uint8:
        if values.max() > 255:
            raise FileError(
                role, path, "labels 0..255", f"16-bit values up to {values.max()}", "save an integer .npy"
            )
        values = values.astype(np.uint8)
    check_labels(values, num_labels, path, role)
    return values


def read_label_map(
    path: PathLike,
    num_labels: int,
    *,
    unknown: int | None = None,
    key: str | None = None,
    role: str = "unary",
    paper: bool = False,
) -> NDArray[np.int64]:
    """Read a label for each pixel, Int64[H, W], -1 where unknown.

    Args:
        path: an indexed or grey PNG, or an array [H, W] of whole numbers in .npy, .npz or .pt.
        num_labels: L; labels are 0..L-1.
        unknown: see `known_labels`. With None, a map of only 0 and 255 is rejected, since it may be a
            black-and-white mask.
        key: the entry of an .npz file or of a dict in a .pt file.
        paper: also accept a map of only 255, such as a page without scribbles.

    Raises:
        ValueError: an unusable file, labels out of range, `unknown` among the labels.
    """
    if Path(path).suffix.lower() == ".png":
        values: NDArray[Any] = read_label_png(path, role=role)
    else:
        values = Axes(path, role, MAP, "hw").read("labels", key, MAX_BYTES // 8)[0]
    if unknown is None and num_labels > 1:
        ask_about_white(values, role, path, paper=paper)
    return known_labels(values, num_labels, unknown, role=role, path=path)


def known_labels(
    values: NDArray[Any],
    num_labels: int,
    unknown: int | None = None,
    *,
    valid: NDArray[np.bool_] | None = None,
    role: str = "unary",
    path: PathLike | None = None,
) -> NDArray[np.int64]:
    """The labels in an array, Int64[*spatial], -1 where unknown.

    Args:
        values: whole numbers of any type, real or bool: 0..num_labels-1, -1 or `unknown`.
        num_labels: L.
        unknown: the value of pixels without a label. None: 255; with more than 255 labels no value, and a
            255 is rejected as ambiguous.
        valid: Bool[*spatial]; where False any value is accepted, and the label is unknown.
        role, path: what the caller uses the values for, and their file if there is one, for messages.

    Raises:
        ValueError: fractions, NaN, labels out of range, `unknown` among the labels.

    >>> known_labels(np.array([[0.0, 1.0, 255.0]]), 2)
    array([[ 0,  1, -1]])
    """
    labels = whole_numbers(values, valid, role, path)
    if valid is not None:
        labels[~valid] = FREE
    given = VOID if unknown is None else unknown
    if 0 <= given < num_labels and (unknown is not None or (labels == given).any()):
        raise ValueError(
            f"unknown: expected a value outside the labels 0..{num_labels - 1}, got {given}; use 255 or, "
            f"with more than 255 labels, -1; if {given} is the void value, use fewer labels"
        )
    labels[labels == given] = FREE
    hint = "check the number of labels, or state which number means unknown: unknown={}"
    check_labels(labels, num_labels, path, role, void=FREE, remedy=hint)
    return labels


def whole_numbers(
    values: NDArray[Any], valid: NDArray[np.bool_] | None, role: str, path: PathLike | None = None
) -> NDArray[np.int64]:
    """A copy of the values as Int64; ValueError for fractions, NaN or infinity at valid positions."""
    if valid is not None and values.dtype.kind == "f":
        values = np.where(valid, values, 0)
    whole = values.dtype.kind in "iub" or (
        values.dtype.kind == "f" and bool(np.isfinite(values).all() and (values == np.round(values)).all())
    )
    if not whole:
        raise refusal(
            role, path, "labels, whole numbers", f"{values.dtype} with other values",
            "for scores pass kind='probabilities' or kind='logits'",
        )  # fmt: skip
    with np.errstate(invalid="ignore"):  # floats beyond 2^63 become negative and are rejected as labels
        return values.astype(np.int64)


def only_white(held: NDArray[Any]) -> bool:
    """True for the values of a black-and-white mask: only 0 and 255 (-1 may occur)."""
    return bool((held == VOID).any()) and bool(np.isin(held, (-1, 0, VOID)).all())


def ask_about_white(
    values: NDArray[Any], role: str, path: PathLike | None = None, *, paper: bool = False
) -> None:
    """Reject labels of only 0 and 255: a black-and-white mask, or background with unknown pixels.

    As a label 255 means "unknown", so the foreground of a black-and-white mask would be lost.

    Args:
        values: the integers in the file, before 255 is read as unknown.
        role, path: what the caller uses them for, and their file, for the message.
        paper: accept a map of only 255, such as a page without scribbles.
    """
    if not only_white(values) or (paper and not (values == 0).any()):
        return
    expected = f'labels, where {VOID} means "unknown"'
    got = f"nothing but {'0 and ' if (values == 0).any() else ''}{VOID}"
    remedy = (
        f"save white as 1, for example (mask > 0).astype('uint8'); if {VOID} does mean \"unknown\", pass "
        f"--void {VOID} or unknown={VOID}"
    )
    raise refusal(role, path, expected, got, remedy)


def check_labels(
    values: NDArray[Any],
    num_labels: int | None,
    path: PathLike | None,
    role: str,
    void: int = VOID,
    remedy: str = "check the number of labels, or the mapping of the file's values to labels",
) -> None:
    """Reject labels outside 0..num_labels-1 other than `void`, naming the first one and its position."""
    if num_labels is None:
        return
    bad = ((values < 0) | (values >= num_labels)) & (values != void)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        what = "pixels" if bad.ndim == 2 else "voxels"
        raise refusal(
            role, path, f"labels 0..{num_labels - 1} or {void}",
            f"{int(values[first])} at {place_of(first)} ({int(bad.sum())} such {what})",
            remedy.format(int(values[first])),
        )  # fmt: skip


def place_of(position: tuple[int, ...]) -> str:
    """A position in words.

    >>> place_of((3, 4)), place_of((3, 4, 5))
    ('row 3, column 4', 'position (3, 4, 5)')
    """
    return f"row {position[0]}, column {position[1]}" if len(position) == 2 else f"position {position}"
