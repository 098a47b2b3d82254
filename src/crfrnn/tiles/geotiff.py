# SPDX-License-Identifier: MIT
"""GeoTIFF through rasterio (the extra `geo`): read by windows, written by windows, georeference kept."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.data.files import FileError, PathLike, atomic, existing
from crfrnn.data.palette import VOID, voc_palette

CACHE = 64  # MB that GDAL may keep of blocks; its own default is a twentieth of the machine
BLOCK = 256
_ENDINGS = (".tif", ".tiff")


class Raster:
    """A GeoTIFF as a `Source`; only the windows that are asked for are read.

    Args:
        path: .tif or .tiff.
        role: what the file is to the caller, for messages.
        bands: which, from 1 on; None takes all.
        scale: (low, high), numbers that become 0 and 255; None leaves the numbers as they stand.

    Raises:
        ValueError: no such file, no TIFF, damaged, no such band.
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
        if scale is not None and not scale[0] < scale[1]:
            raise ValueError(f"scale: expected low < high, got {scale}")
        masks = self._rasterio.enums.MaskFlags.all_valid
        self._whole = all(masks in self.file.mask_flag_enums[b - 1] for b in self.bands)

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.bands), self.file.height, self.file.width

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.file.dtypes[self.bands[0] - 1])

    def read(self, rows: slice, columns: slice) -> NDArray[Any]:
        with self._named():
            values = self.file.read(self.bands, window=self._window(rows, columns))
        if self.scale is None:
            return values
        low, high = self.scale
        return ((values.astype(np.float32) - low) * (255 / (high - low))).clip(0, 255)

    def valid(self, rows: slice, columns: slice) -> NDArray[np.bool_] | None:
        if self._whole:
            return None
        with self._named():
            masks = self.file.read_masks(self.bands, window=self._window(rows, columns))
        return (masks > 0).all(0)

    def same_grid(self, other: Raster) -> bool:
        """Whether both have the same pixels in the same places; a file without georeference fits any."""
        if self.shape[1:] != other.shape[1:]:
            return False
        if self.file.crs is None or other.file.crs is None:
            return True
        return self.file.crs == other.file.crs and self.file.transform.almost_equals(
            other.file.transform, precision=1e-6 * abs(self.file.transform.a)
        )

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
        except self._rasterio.errors.RasterioError as error:
            raise FileError(
                self.role, self.path, "a whole GeoTIFF", f"{type(error).__name__}: {error}", "write it again"
            ) from error


class LabelRaster:
    """Label map, and if wanted marginals, as GeoTIFF with the georeference of a picture.

    ``write`` fits `refine_tiles`. The files appear whole when the block is left, or not at all. Where the
    picture has no data the label is 255, and 255 is the file's nodata value (65535 beyond 255 labels).

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
        with self._stack:  # what was opened is undone if the second file cannot be
            self._map = self._create(self.path, 1, self.dtype, nodata=self.nodata)
            if self.dtype == np.uint8:
                palette = {k: (*colour, 255) for k, colour in enumerate(voc_palette().tolist())}
                self._map.write_colormap(1, palette)
            self._scores = (
                None
                if self.probabilities is None
                else self._create(self.probabilities, self.labels, np.dtype(np.float32))
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
                self._scores.write(probabilities, window=window)

    def _create(self, path: PathLike, bands: int, dtype: np.dtype[Any], **options: Any) -> Any:
        temporary = self._stack.enter_context(atomic(path))
        file = self.like.file
        profile = {
            "driver": "GTiff", "count": bands, "dtype": dtype.name, "height": file.height,
            "width": file.width, "crs": file.crs, "transform": file.transform, "tiled": True,
            "blockxsize": BLOCK, "blockysize": BLOCK, "compress": "deflate", "BIGTIFF": "IF_SAFER", **options,
        }  # fmt: skip
        with _quiet(self._rasterio):
            return self._stack.enter_context(self._rasterio.open(temporary, "w", **profile))


@contextmanager
def _quiet(rasterio: Any) -> Iterator[None]:
    """A small cache, and no warning about a picture that is not georeferenced."""
    with rasterio.Env(GDAL_CACHEMAX=CACHE), warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield


def _rasterio() -> Any:
    try:
        for part in ("errors", "enums", "windows"):
            importlib.import_module(f"rasterio.{part}")
        return importlib.import_module("rasterio")
    except ImportError as error:
        raise ImportError(
            "GeoTIFF: expected the package rasterio, got none; pip install 'crfrnn[geo]'"
        ) from error
