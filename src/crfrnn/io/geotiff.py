# SPDX-License-Identifier: MIT
"""GeoTIFF through rasterio (the extra `geo`): read and written by windows, georeference kept."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.extras import optional
from crfrnn.io.files import FileError, PathLike, atomic, existing
from crfrnn.io.palette import VOID, voc_palette
from crfrnn.io.scale import check_scale, stretched
from crfrnn.lattice.validate import warn

CACHE = 64  # MB for GDAL's block cache; its default is a twentieth of the machine's memory
BLOCK = 256
SAME_PIXEL = 1e-3  # tolerance in pixels; transforms are stored with rounded digits
_ENDINGS = (".tif", ".tiff")


class Raster:
    """A GeoTIFF as a `Windowed` picture; only the requested windows are read.

    Args:
        path: .tif or .tiff.
        role: what the caller uses the file for, as named in messages.
        bands: band numbers, from 1; None takes all.
        scale: (low, high), the numbers that become 0 and 255; None leaves the numbers unchanged.

    A pixel has no data where all selected bands hold the file's nodata value, or where its mask or alpha
    band marks it so. If only some bands hold the nodata value, they keep that number; in a picture with a
    scale, NaN counts as LOW there.

    Raises:
        ValueError: no such file, no TIFF, damaged, no such band, complex numbers, an invalid scale.
        ImportError: rasterio is not installed.
    """

    def __init__(
        self,
        path: PathLike,
        role: str = "image",
        *,
        bands: Sequence[int] | None = None,
        scale: tuple[float, float] | None = None,
    ) -> None:
        self._rasterio, self.path, self.role, self.scale = _rasterio(), path, role, scale
        found = existing(path, role)
        with self._named():
            self.file = self._rasterio.open(found, driver="GTiff")
        self.bands = list(range(1, self.file.count + 1)) if bands is None else list(bands)
        if not self.bands or not all(1 <= b <= self.file.count for b in self.bands):
            raise FileError(
                role, path, f"bands 1..{self.file.count}", f"{self.bands}", "name others with bands="
            )
        check_scale(scale)
        if self.dtype.kind not in "uif":
            raise FileError(role, path, "real numbers", f"{self.dtype}", "write their magnitude")
        with self._named():
            known = self.file.mask_flag_enums  # read for all bands at each access; there may be thousands
        flags = [known[b - 1] for b in self.bands]
        kinds = self._rasterio.enums.MaskFlags
        self._whole = all(kinds.all_valid in own for own in flags)
        self._by_value = np.array([kinds.nodata in own for own in flags])
        self._nan_is_nodata = self.dtype.kind == "f" and any(
            value is not None and math.isnan(value) for value in self.file.nodatavals
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.bands), self.file.height, self.file.width

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.file.dtypes[self.bands[0] - 1])

    @property
    def nodata(self) -> float | None:
        """The number that marks missing data, if the file declares one."""
        return self.file.nodata

    @property
    def bits(self) -> int:
        """Bits per number in the file, possibly fewer than in `dtype`."""
        stored = self.file.tags(self.bands[0], ns="IMAGE_STRUCTURE").get("NBITS")
        return 8 * self.dtype.itemsize if stored is None else int(stored)

    @property
    def indexed(self) -> bool:
        """Whether the numbers are indices into a palette."""
        palette = self._rasterio.enums.ColorInterp.palette
        with self._named():
            known = self.file.colorinterp
        return any(known[b - 1] == palette for b in self.bands)

    def read(self, rows: slice, columns: slice) -> NDArray[Any]:
        with self._named():
            values = self.file.read(self.bands, window=self._window(rows, columns))
        if self.scale is None:
            return values
        if self._nan_is_nodata:
            values[np.isnan(values)] = self.scale[0]
        # Subtract in float64, as float32 loses differences of large numbers; clip outliers such as nodata.
        wide = values.astype(np.float64 if self.dtype.itemsize > 2 else np.float32)
        return stretched(wide, self.scale).astype(np.float32, copy=False)

    def valid(self, rows: slice, columns: slice) -> NDArray[np.bool_] | None:
        if self._whole:
            return None
        with self._named():
            masks = self.file.read_masks(self.bands, window=self._window(rows, columns)) > 0
        valid = masks[~self._by_value].all(0)
        return valid & masks[self._by_value].any(0) if self._by_value.any() else valid

    def misfit(self, other: Raster) -> str | None:
        """In words, how the pixel positions of `other` differ; None if they agree.

        Coordinate systems are compared if both files have one, and likewise transforms, to a thousandth of a
        pixel. A file with neither matches any other of its size.
        """
        if self.shape[1:] != other.shape[1:]:
            return f"{other.shape[2]} × {other.shape[1]}"
        mine, theirs = self.file.crs, other.file.crs
        if mine is not None and theirs is not None and mine != theirs:
            return f"the coordinate system {theirs.to_string():.60}"
        here, there = self.file.transform, other.file.transform
        if here.is_identity or there.is_identity:
            return None
        if here.is_degenerate or there.is_degenerate:
            return None if here == there else "another transform"
        height, width = self.shape[1:]
        corners = np.array([(x, y, 1) for x in (0, width) for y in (0, height)], np.float64).T
        back = np.linalg.inv(np.reshape(here, (3, 3))) @ np.reshape(there, (3, 3))
        away = float(np.hypot(*(back @ corners - corners)[:2]).max())
        return None if away <= SAME_PIXEL else f"a corner {away:.3g} pixels away"

    def close(self) -> None:
        self.file.close()

    def __enter__(self) -> Raster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _window(self, rows: slice, columns: slice) -> Any:
        return self._rasterio.windows.Window.from_slices(rows, columns)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            with _quiet(self._rasterio):
                yield
        except (self._rasterio.errors.RasterioError, self._rasterio._err.CPLE_BaseError) as error:
            raise FileError(
                self.role, self.path, "a whole GeoTIFF", f"{type(error).__name__}: {error}", "write it again"
            ) from error


class LabelRaster:
    """A label map, and optionally marginals, as GeoTIFF with the georeference of a picture.

    Pass ``write`` to `refine_tiles`. The files are renamed into place when the block ends without an error.
    Pixels without data get label 255, which is the file's nodata value (65535 with more than 255 labels), and
    NaN as marginals. Coordinate system, transform, ground control points, RPCs and AREA_OR_POINT are copied
    from the picture.

    Args: path, .tif or .tiff; like, the picture; labels, their number; probabilities, a second file or None.
    """

    def __init__(
        self, path: PathLike, like: Raster, labels: int, probabilities: PathLike | None = None
    ) -> None:
        for name in (path, *([] if probabilities is None else [probabilities])):
            if not str(name).lower().endswith(_ENDINGS):
                raise ValueError(f"output: expected a name in .tif or .tiff, got {str(name)!r}")
        self._rasterio, self.path, self.like = _rasterio(), path, like
        self.labels, self.probabilities = labels, probabilities
        self.dtype = np.dtype(np.uint8 if labels <= VOID else np.uint16)
        self.nodata = int(np.iinfo(self.dtype).max)
        self._stack = ExitStack()

    def __enter__(self) -> LabelRaster:
        with self._stack:  # closes the first file if the second cannot be opened
            self._map = self._create(self.path, 1, self.dtype, nodata=self.nodata)
            if self.dtype == np.uint8:
                palette = {k: (*colour, 255) for k, colour in enumerate(voc_palette().tolist())}
                self._map.write_colormap(1, palette)
            self._scores = (
                None
                if self.probabilities is None
                else self._create(self.probabilities, self.labels, np.dtype(np.float32), nodata=math.nan)
            )
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def write(
        self,
        top: int,
        left: int,
        labels: NDArray[Any],
        probabilities: NDArray[np.float32],
        valid: NDArray[np.bool_] | None = None,
    ) -> None:
        """Write one finished rectangle."""
        values = labels.astype(self.dtype)
        if valid is not None:
            values[~valid] = self.nodata
        window = self._rasterio.windows.Window(left, top, labels.shape[1], labels.shape[0])
        with _quiet(self._rasterio):
            self._map.write(values, 1, window=window)
            if self._scores is not None:
                if valid is not None:
                    probabilities = np.where(valid, probabilities, np.float32(math.nan))
                self._scores.write(probabilities, window=window)

    def _create(self, path: PathLike, bands: int, dtype: np.dtype[Any], **options: Any) -> Any:
        temporary = self._stack.enter_context(atomic(path))
        file = self.like.file
        profile = {
            "driver": "GTiff", "count": bands, "dtype": dtype.name, "height": file.height,
            "width": file.width, "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK,
            "compress": "deflate", "BIGTIFF": "IF_SAFER", **_places(file), **options,
        }  # fmt: skip
        with _quiet(self._rasterio):
            out = self._rasterio.open(temporary, "w", **profile)
            self._stack.enter_context(_closed(self._rasterio, out, path))
            if "AREA_OR_POINT" in file.tags():
                out.update_tags(AREA_OR_POINT=file.tags()["AREA_OR_POINT"])
            return out


def _places(file: Any) -> dict[str, Any]:
    """The georeference of a file, as rasterio's arguments for a new one."""
    points, system = file.gcps
    found: dict[str, Any] = {"crs": file.crs, "transform": file.transform}
    if points and file.transform.is_identity:
        found = {"crs": system, "gcps": points}
    elif points:
        warn(
            f"IMAGE {file.name!r}: its {len(points)} ground control points are not in the results, since a "
            "GeoTIFF holds either these or a transform; the transform is kept"
        )
    if file.rpcs is not None:
        found["rpcs"] = file.rpcs
    return found


@contextmanager
def _closed(rasterio: Any, file: Any, path: PathLike) -> Iterator[None]:
    """Close it; OSError unless all blocks are written: on a full disk GDAL raises no error."""
    name = file.name
    try:
        yield
    except BaseException:
        with _quiet(rasterio):
            file.close()
        raise
    with _quiet(rasterio):
        file.close()
        try:
            with rasterio.open(name) as made:
                ends = list(_block_ends(made))
        except rasterio.errors.RasterioError:
            ends = [0]
    if not all(ends) or max(ends) > os.path.getsize(name):
        raise OSError(f"output {os.fspath(path)!r}: expected all of it on the disk, got a part; is it full?")


def _block_ends(file: Any) -> Iterator[int]:
    """The end of each block of a GeoTIFF, in bytes from the start; 0 for a missing block."""
    shared = file.interleaving is not None and file.interleaving.value == "PIXEL"
    for band in (1,) if shared else file.indexes:
        for (row, column), _ in file.block_windows(band):
            parts = (
                file.get_tag_item(f"BLOCK_{what}_{column}_{row}", "TIFF", band) for what in ("OFFSET", "SIZE")
            )
            yield sum(int(part or 0) for part in parts)


@contextmanager
def _quiet(rasterio: Any) -> Iterator[None]:
    """A small cache, and no warning about a picture that is not georeferenced."""
    with rasterio.Env(GDAL_CACHEMAX=CACHE), warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield


def _rasterio() -> Any:
    for part in ("errors", "enums", "windows"):
        optional(f"rasterio.{part}", "geo", "GeoTIFF")
    return optional("rasterio", "geo", "GeoTIFF")
