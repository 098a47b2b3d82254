# SPDX-License-Identifier: MIT
"""A big synthetic GeoTIFF through `crfrnn tiles`: time and peak memory of the process.

Cells of random colours with noise on them, and scores of five labels with more noise, written by windows.

    python benchmarks/big_picture.py --side 10000 --folder /tmp/big
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window

from crfrnn.io.outputs import Item, claim

LABELS, CELL, ROWS = 5, 97, 512


def make(folder: Path, side: int, seed: int = 0) -> tuple[Path, Path]:
    """scene.tif, UInt8 in 3 bands, and scores.tif, logits as Float32 in 5 bands."""
    rng = np.random.default_rng(seed)
    cells = -(-side // CELL)
    truth = rng.integers(0, LABELS, (cells, cells))
    base = np.array([[60, 110, 60], [40, 70, 150], [170, 150, 110], [200, 200, 205], [120, 90, 70]])
    colours = base[truth] + rng.integers(-20, 21, (cells, cells, 3))
    shared = {
        "driver": "GTiff", "height": side, "width": side, "tiled": True, "blockxsize": 256, "blockysize": 256,
        "crs": "EPSG:32633", "transform": from_origin(400000, 5800000, 0.5, 0.5), "BIGTIFF": "IF_SAFER",
    }  # fmt: skip
    scene, scores = folder / "scene.tif", folder / "scores.tif"
    with (
        rasterio.Env(GDAL_CACHEMAX=256),
        rasterio.open(scene, "w", count=3, dtype="uint8", **shared) as picture,
        rasterio.open(scores, "w", count=LABELS, dtype="float32", **shared) as unary,
    ):
        x = np.arange(side)
        for top in range(0, side, ROWS):
            y = np.arange(top, min(side, top + ROWS))
            # Wavy borders, which coincide with no grid of tiles.
            at = (y[:, None] + 9 * np.sin(x / 31)).astype(int).clip(0, side - 1) // CELL, x[None] // CELL
            noisy = colours[at] + rng.normal(0, 6, (*at[0].shape, 3)).astype(np.float32)
            window = Window(0, top, side, len(y))
            picture.write(noisy.clip(0, 255).astype(np.uint8).transpose(2, 0, 1), window=window)
            hot = (truth[at] == np.arange(LABELS)[:, None, None]).astype(np.float32)
            noise = rng.standard_normal(hot.shape, np.float32)
            unary.write(1.5 * hot + noise, window=window)
    return scene, scores


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=10_000, help="pixels")
    parser.add_argument("--memory", type=float, default=2048, help="MiB, as crfrnn tiles takes it")
    parser.add_argument("--folder", type=Path, required=True, help="for the files, some 23 bytes per pixel")
    options = parser.parse_args()
    made = [options.folder / name for name in ("scene.tif", "scores.tif")]
    with claim(options.folder, "big_picture", {"side": options.side}, [Item((), tuple(made))]):
        scene, scores = make(options.folder, options.side)
    command = [
        sys.executable, "-m", "crfrnn.cli", "tiles", scene, "-u", scores, "--kind", "logits", "-T", "5",
        "--memory", options.memory, "-o", options.folder / "labels.tif", "--overwrite",
    ]  # fmt: skip
    begun = time.perf_counter()
    child = subprocess.Popen([str(word) for word in command])
    _, status, usage = os.wait4(child.pid, 0)
    found = {
        "side": options.side,
        "labels": LABELS,
        "budget_mib": options.memory,
        "exit": os.waitstatus_to_exitcode(status),
        "seconds": round(time.perf_counter() - begun, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mib": round(usage.ru_maxrss / 1024),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
