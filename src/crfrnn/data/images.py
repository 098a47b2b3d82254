# SPDX-License-Identifier: MIT
"""Photographs as RGB uint8, whatever they were saved as, and no larger than promised."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from crfrnn.data.files import FileError, PathLike, atomic, existing

# 8192 × 8192. Pillow itself warns above 89 Mpx; a dense CRF of 21 labels needs some 2 GB per 10 Mpx anyway.
MAX_PIXELS = 2**26
# Formats that decode inside the process: Pillow also knows EPS, which would start Ghostscript on the file.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def read_image(path: PathLike, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Read a photograph as RGB, UInt8[H, W, 3], upright as its EXIF orientation says.

    Grey is repeated in the three channels, 16 bits are scaled to 8 (v · 255 / 65535, rounded), CMYK and the
    like are converted by Pillow, transparent pixels are shown on white.

    Args:
        path: BMP, GIF, JPEG, PNG, PPM, TIFF or WebP with one picture in it.
        max_pixels: larger pictures are refused before anything is decoded.

    Raises:
        ValueError: no such file, no such format, truncated or damaged, too large, several frames,
            32-bit values (their range is not said in the file).

    >>> import os, tempfile
    >>> name = os.path.join(tempfile.mkdtemp(), "grey.png")
    >>> Image.new("L", (4, 3), 7).save(name)
    >>> read_image(name).shape, read_image(name)[0, 0].tolist()
    ((3, 4, 3), [7, 7, 7])
    """
    return as_rgb(decode(path, "image", formats=FORMATS, max_pixels=max_pixels), path)


def as_rgb(picture: Image.Image, name: PathLike = "(in memory)") -> NDArray[np.uint8]:
    """A Pillow picture as RGB, UInt8[H, W, 3], by the rules of `read_image`; `name` is for messages.

    >>> as_rgb(Image.new("LA", (2, 1), (9, 0))).tolist()
    [[[255, 255, 255], [255, 255, 255]]]
    """
    kind = picture.format
    try:
        return _rgb(ImageOps.exif_transpose(picture), kind, name)
    except FileError:
        raise
    except Exception as error:
        raise FileError(
            "image", name, "a picture that converts to RGB", f"mode {picture.mode}: {error}", "save it as RGB"
        ) from error


def write_png(picture: Image.Image, path: PathLike) -> None:
    """Write a picture as PNG, whole or not at all."""
    with atomic(path) as temporary:
        picture.save(temporary, format="PNG")


def picture_and_map(
    image: NDArray[np.uint8], values: NDArray[Any], role: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A picture in memory and integers of its size, as UInt8[H, W, 3] and Int64[H, W].

    Raises: ValueError for another shape or dtype; `role` is what it calls the integers.

    >>> picture_and_map(np.zeros((2, 3, 3), np.uint8), np.ones((2, 3), np.uint8), "labels")[1].dtype
    dtype('int64')
    """
    image, values = np.asarray(image), np.asarray(values)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"image: expected uint8 [H, W, 3], got {image.dtype} {image.shape}; use read_image")
    if values.dtype.kind not in "iu" or values.shape != image.shape[:2]:
        raise ValueError(
            f"{role}: expected integers of shape {image.shape[:2]} as the picture has, "
            f"got {values.dtype} {values.shape}"
        )
    return image, values.astype(np.int64)


def decode(path: PathLike, role: str, *, formats: tuple[str, ...], max_pixels: int) -> Image.Image:
    """Open, check the size, then load: a `FileError` whatever Pillow says about a file that is not well."""
    found = existing(path, role)
    wanted = f"a picture ({', '.join(formats)})"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is stricter
            picture = Image.open(found, formats=formats)
    except Image.DecompressionBombError as error:
        raise FileError(role, path, f"at most {max_pixels} pixels", str(error), _SMALLER) from error
    except Exception as error:
        raise FileError(role, path, wanted, _reason(error), "save it in one of these formats") from error
    with picture:
        width, height = picture.size
        if width * height > max_pixels:
            raise FileError(
                role, path, f"at most {max_pixels} pixels", f"{width} × {height} = {width * height}", _SMALLER
            )
        try:
            # A phone's MPO is a JPEG with a thumbnail or a depth map behind it.
            frames = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
            if frames == 1:
                picture.load()
        except Exception as error:
            raise FileError(
                role, path, "a whole picture", f"damaged data ({_reason(error)})", _AGAIN
            ) from error
        if frames != 1:
            raise FileError(role, path, "one picture", f"{frames} frames", "save the one that is meant")
        return picture


_SMALLER = "scale it down or cut it into tiles (or, for a file that is trusted, raise max_pixels)"
_AGAIN = "copy, download or save it again"


def _reason(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _rgb(picture: Image.Image, kind: str | None, path: PathLike) -> NDArray[np.uint8]:
    mode = picture.mode
    # Mode I is 32 bits wide, but what PNG and PGM readers put there is 16-bit data.
    if mode.startswith("I;16") or (mode == "I" and kind in ("PNG", "PPM")):
        values = np.asarray(picture).astype(np.int64)
        grey = ((values.clip(0, 65535) * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if mode in ("I", "F"):
        raise FileError(
            "image", path, "8 or 16 bits per channel", f"32-bit values (mode {mode})",
            "scale them to 0..255 and save as 8 bits, since the file does not say their range",
        )  # fmt: skip
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(picture.convert("RGB"))
