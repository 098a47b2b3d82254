# SPDX-License-Identifier: MIT
"""Small GeoTIFF files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio


def save(path: Path, values: np.ndarray, **more: Any) -> Path:
    transform = rasterio.Affine(0.5, 0.1, 400000, 0.1, -0.5, 5800000)
    profile = {
        "driver": "GTiff", "count": len(values), "dtype": values.dtype.name, "height": values.shape[1],
        "width": values.shape[2], "crs": "EPSG:32633", "transform": transform, "tiled": True,
        "blockxsize": 64, "blockysize": 64, **more,
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.write(values)
    return path
