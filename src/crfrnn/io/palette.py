# SPDX-License-Identifier: MIT
"""The colours of PASCAL VOC and label maps as indexed PNG, the form its server and its tools read."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crfrnn.io.files import FileError, PathLike
from crfrnn.io.images import MAX_PIXELS, decode, stored_numbers, write_png

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
VOID = 255  # pixels without a truth: the cream band around objects in VOC masks


def voc_palette(colours: int = 256) -> NDArray[np.uint8]:
    """The VOC colour of every label, UInt8[colours, 3], RGB.

    Bit k of the label goes to bit 7 - k // 3 of channel k mod 3: label 1 is (128, 0, 0), 255 (224, 224, 192).

    Source: PASCAL VOC development kit, VOClabelcolormap.m.

    >>> voc_palette()[[0, 1, 15, 255]].tolist()
    [[0, 0, 0], [128, 0, 0], [192, 128, 128], [224, 224, 192]]
    """
    if not 1 <= colours <= 256:
        raise ValueError(f"colours: expected 1..256, got {colours}; a pixel of an indexed picture is a byte")
    labels = np.arange(colours)
    palette = np.zeros((colours, 3), np.uint8)
    for bit in range(8):
        palette[:, bit % 3] |= ((labels >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    return palette


def write_label_png(path: PathLike, labels: Any, palette: NDArray[np.uint8] | None = None) -> None:
    """Write a label map as indexed PNG, whole or not at all.

    Args:
        path: where; the folder must exist. An existing file is replaced.
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
        ValueError: wrong shape, labels outside 0..255, a palette of another form.
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

    The stored numbers count, of 1, 2, 4, 8 or 16 bits alike.

    Args:
        path: the file.
        num_labels: where given, every label but 255 must be smaller.
        role: what the file is to the caller, for the message.
        max_pixels: larger pictures are refused before anything is decoded.

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


def only_white(held: NDArray[Any]) -> bool:
    """True for the values of a black and white mask, 0 and 255 and no other (-1 is welcome)."""
    return bool((held == VOID).any()) and bool(np.isin(held, (-1, 0, VOID)).all())


def ask_about_white(
    values: NDArray[Any], role: str, path: PathLike | None = None, *, paper: bool = False
) -> None:
    """Refuse labels of nothing but 0 and 255: black and white, or a background beside what is not known?

    Read as labels, 255 means "not known", so that all of a black and white mask's foreground would vanish.

    Args:
        values: integers that the file holds, before 255 is taken for unknown.
        role, path: what they are to the caller, and their file, for the message.
        paper: 255 alone is welcome, as where nobody scribbled.
    """
    if not only_white(values) or (paper and not (values == 0).any()):
        return
    expected = f'labels, of which {VOID} is none but means "not known"'
    got = f"nothing but {'0 and ' if (values == 0).any() else ''}{VOID}"
    remedy = (
        f"save white as 1, for example (mask > 0).astype('uint8'); if {VOID} does mean \"not known\", say "
        f"so: --void {VOID} or unknown={VOID}"
    )
    if path is None:
        raise ValueError(f"{role}: expected {expected}, got {got}; {remedy}")
    raise FileError(role, path, expected, got, remedy)


def check_labels(
    values: NDArray[Any], num_labels: int | None, path: PathLike, role: str, void: int = VOID
) -> None:
    """Refuse labels outside 0..num_labels-1 other than `void`, naming the first one and where it is."""
    if num_labels is None:
        return
    bad = ((values < 0) | (values >= num_labels)) & (values != void)
    if bad.any():
        y, x = (int(i) for i in np.argwhere(bad)[0])
        raise FileError(
            role, path, f"labels 0..{num_labels - 1} or {void}",
            f"{int(values[y, x])} at row {y}, column {x} ({int(bad.sum())} such pixels)",
            "check the number of labels, or the mapping of the file's values to labels",
        )  # fmt: skip
