# SPDX-License-Identifier: MIT
"""Photographs as RGB uint8 from all common formats, limited in size."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from crfrnn.io import tiff
from crfrnn.io.files import FileError, PathLike, atomic, existing
from crfrnn.io.scale import SHALLOW, Scale, by_depth, check_scale, scaled, warn_of_depth

# 8192 × 8192. Pillow itself warns above 89 Mpx; a CRF with 21 labels needs about 2 GB per 10 Mpx.
MAX_PIXELS = 2**26
# Formats decoded within the process: Pillow also reads EPS, but runs Ghostscript on the file.
ORIENTATION = 0x0112  # EXIF's tag: how the stored pixels are rotated for display
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# Pillow scales grey of 2 and 4 bits to 0..255 while decoding; a stored 1 becomes this value.
_STRETCHED = {"1": 255, "L;2": 85, "L;4": 17}
_STORED_AS = "crfrnn stored as"


def read_image(
    path: PathLike, *, max_pixels: int = MAX_PIXELS, scale: Scale | None = None
) -> NDArray[np.uint8]:
    """Read a photograph as RGB, UInt8[H, W, 3], upright by its EXIF orientation.

    Grey is repeated in the three channels, 12 and 16 bits of grey are scaled to 8 (v · 255 / 65535, rounded;
    12 bits by 4095), a TIFF whose 0 is white is inverted, CMYK and similar modes are converted by Pillow,
    transparent pixels are composited on white.

    Args:
        path: BMP, GIF, JPEG, PNG, PPM, TIFF or WebP containing one picture.
        max_pixels: larger pictures are rejected before anything is decoded.
        scale: (LOW, HIGH), the numbers that become 0 and 255 instead of the above; 32-bit values are then
        accepted too. Needed for 10- or 12-bit numbers in a 16-bit file; without it a warning is issued.

    Raises:
        ValueError: no such file, no such format, truncated or damaged, too large, several frames,
            32-bit or signed values without a scale (the file does not state their range), TIFFs of other
            depths, 16 bits per colour channel with a scale.

    >>> import os, tempfile
    >>> name = os.path.join(tempfile.mkdtemp(), "grey.png")
    >>> Image.new("L", (4, 3), 7).save(name)
    >>> read_image(name).shape, read_image(name)[0, 0].tolist()
    ((3, 4, 3), [7, 7, 7])
    """
    check_scale(scale)
    return as_rgb(decode(path, "image", formats=FORMATS, max_pixels=max_pixels), path, scale)


def as_rgb(
    picture: Image.Image, name: PathLike = "(in memory)", scale: Scale | None = None
) -> NDArray[np.uint8]:
    """A Pillow picture as RGB, UInt8[H, W, 3], by the rules of `read_image`; `name` is for messages.

    >>> as_rgb(Image.new("LA", (2, 1), (9, 0))).tolist()
    [[[255, 255, 255], [255, 255, 255]]]
    """
    try:
        _load(picture, "image", name)
        form, deep = _form(picture, name), _is_deep_colour(picture)
        rgb = _rgb(ImageOps.exif_transpose(picture), form, name, scale)
        if deep:
            _check_deep_colour(rgb, name, scale)
        return rgb if scale is None or form[0] or picture.mode in ("I", "F") else scaled(rgb, scale, name)
    except FileError:
        raise
    except Exception as error:
        raise FileError(
            "image", name, "a picture that converts to RGB", f"mode {picture.mode}: {error}", "save it as RGB"
        ) from error


def stored_form(path: PathLike) -> tuple[tuple[int, int], int]:
    """(height, width) of the stored pixels and the EXIF orientation, 1 if absent; nothing is decoded."""
    with Image.open(existing(path, "image"), formats=FORMATS) as picture:
        orientation = picture.getexif().get(ORIENTATION, 1)
        return (picture.height, picture.width), orientation if orientation in range(1, 9) else 1


def upright(orientation: int, name: str, rows: int, columns: int) -> str:
    """The numpy expression that rotates an array of the stored pixels as EXIF rotates the picture.

    >>> upright(6, "unary", 1, 2)
    'numpy.rot90(unary, -1, axes=(1, 2))'
    """
    axes = f"axes=({rows}, {columns})"
    half = f"numpy.rot90({name}, 2, {axes})"
    return {
        2: f"numpy.flip({name}, {columns})",
        3: half,
        4: f"numpy.flip({name}, {rows})",
        5: f"numpy.swapaxes({name}, {rows}, {columns})",
        6: f"numpy.rot90({name}, -1, {axes})",
        7: f"numpy.swapaxes({half}, {rows}, {columns})",
        8: f"numpy.rot90({name}, 1, {axes})",
    }.get(orientation, name)


def write_png(picture: Image.Image, path: PathLike) -> None:
    """Write a picture as PNG, atomically."""
    with atomic(path) as temporary:
        picture.save(temporary, format="PNG")


def picture_and_map(
    image: NDArray[np.uint8], values: NDArray[Any], role: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A picture in memory and an integer map of its size, as UInt8[H, W, 3] and Int64[H, W].

    Raises: ValueError for another shape or dtype; `role` names the integers in the message.

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


def stored_as(picture: Image.Image) -> str:
    """Pillow's raw mode of a PNG opened by `decode`, such as "L;2" or "LA;16B"; "" for other pictures."""
    return picture.info.get(_STORED_AS, "")


def stored_numbers(picture: Image.Image) -> NDArray[Any]:
    """The stored numbers of an indexed or grey PNG opened by `decode`, UInt[H, W] or Bool[H, W].

    Labels are these numbers at any depth: a two-bit 1 is label 1, not the grey 85 that it is displayed as.
    """
    values, step = np.asarray(picture), _STRETCHED.get(stored_as(picture), 1)
    return values if step == 1 or values.dtype == bool else values // step


def upright_size(path: PathLike, role: str = "picture", *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) of the result of `read_image`, from the file's header alone.

    Raises: ValueError for a file that is not a picture, or one with too many pixels.
    """
    found = existing(path, role)
    try:
        with Image.open(found, formats=FORMATS) as opened:
            width, height = opened.size
            # Pillow itself swaps the size of a TIFF; EXIF's orientations 5 to 8 are rotated by 90 degrees.
            turned = opened.format != "TIFF" and opened.getexif().get(ExifTags.Base.Orientation) in _ON_SIDE
    except Exception as error:
        raise FileError(role, path, "a picture", _reason(error), _AGAIN) from error
    if width * height > max_pixels:
        raise FileError(role, path, f"at most {max_pixels} pixels", f"{width} × {height}", _SMALLER)
    return (width, height) if turned else (height, width)


def decode(path: PathLike, role: str, *, formats: tuple[str, ...], max_pixels: int) -> Image.Image:
    """Open, check the size, then load; any error that Pillow raises for a bad file becomes a `FileError`."""
    found = existing(path, role)
    wanted = f"a picture ({', '.join(formats)})"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # this module's limit is stricter
            picture = Image.open(found, formats=formats)
    except Image.DecompressionBombError as error:
        raise FileError(role, path, f"at most {max_pixels} pixels", str(error), _SMALLER) from error
    except Exception as error:
        got, remedy = tiff.unknown_form(found), "save it in one of these formats"
        if got is not None:
            wanted, remedy = tiff.READ, "save it with 8 bits, 0 is black"
        raise FileError(role, path, wanted, got or _reason(error), remedy) from error
    with picture:
        if picture.format == "PNG" and picture.tile:
            # Keep the raw mode: Pillow discards it after decoding.
            raw = picture.tile[0][3] or ""
            stored = picture.info[_STORED_AS] = raw if isinstance(raw, str) else str(raw[0])
            if isinstance(picture.info.get("transparency"), int):  # also a stored number
                picture.info["transparency"] *= _STRETCHED.get(stored, 1)
        width, height = picture.size
        if width * height > max_pixels:
            raise FileError(
                role, path, f"at most {max_pixels} pixels", f"{width} × {height} = {width * height}", _SMALLER
            )
        try:
            # A phone's MPO is a JPEG followed by a thumbnail or a depth map.
            frames = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
            if frames == 1:
                _load(picture, role, path)
        except FileError:
            raise
        except Exception as error:
            raise FileError(
                role, path, "a whole picture", f"damaged data ({_reason(error)})", _AGAIN
            ) from error
        if frames != 1:
            raise FileError(role, path, "one picture", f"{frames} frames", "save only the one you want")
        return picture


_SMALLER = "scale it down or cut it into tiles (or, for a file that you trust, raise max_pixels)"
_AGAIN = "copy, download or save it again"
_ON_SIDE = (5, 6, 7, 8)


def _load(picture: Image.Image, role: str, path: PathLike) -> None:
    if picture.format == "TIFF":
        tiff.load(picture, role, path)
    else:
        picture.load()


def _reason(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _form(picture: Image.Image, path: PathLike) -> tuple[int, bool]:
    """The largest number of grey above 8 bits (0 if the file does not state it), and whether it is black."""
    if picture.format == "TIFF":
        return tiff.grey(picture, path)
    # Mode I is 32 bits wide, but the PNG and PGM readers store 16-bit data in it.
    deep = picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM"))
    return (65535 if deep else 0), False


def _is_deep_colour(picture: Image.Image) -> bool:
    """Whether the file has 16 bits per colour channel, of which Pillow keeps the upper 8."""
    return picture.mode[:3] == "RGB" and (";16" in stored_as(picture) or tiff.bits(picture) > 8)


def _check_deep_colour(rgb: NDArray[np.uint8], path: PathLike, scale: Scale | None) -> None:
    if scale is not None:
        raise FileError(
            "image", path, "grey, or 8 bits per channel, with a scale", "colour of 16 bits per channel",
            "scale it to 0..255 and save as 8 bits",
        )  # fmt: skip
    low, high = int(rgb.min()), int(rgb.max())
    if low < high and SHALLOW * (high + 1) <= 256:
        warn_of_depth(path, 65535, 256 * high + 255, "scale them to 0..255")


def _rgb(
    picture: Image.Image, form: tuple[int, bool], path: PathLike, scale: Scale | None
) -> NDArray[np.uint8]:
    mode, (top, turned) = picture.mode, form
    if top:
        values = np.asarray(picture).astype(np.int64).clip(0, top)
        values = top - values if turned else values
        grey = by_depth(values, top, path) if scale is None else scaled(values, scale, path)
        return np.repeat(grey[..., None], 3, axis=2)
    if mode in ("I", "F"):
        if scale is not None:
            return np.repeat(scaled(np.asarray(picture), scale, path)[..., None], 3, axis=2)
        raise FileError(
            "image", path, "8 or 16 bits per channel", f"32-bit values (mode {mode})",
            "the file does not state their range: pass --scale LOW HIGH, the numbers that become 0 and 255 "
            "(scale=), or save them as 8 bits",
        )  # fmt: skip
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(picture.convert("RGB"))
