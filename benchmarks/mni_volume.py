# SPDX-License-Identifier: MIT
"""A real volume: coarse, noisy tissue maps of the MNI 152 template, refined along its T1 image.

The template and its grey and white matter maps come with nilearn (nothing is downloaded). The maps are
averaged over cubes, interpolated to the voxels, disturbed and refined; Dice is computed against the arg max
of the original maps.

    python benchmarks/mni_volume.py --picture docs/images/mni_volume.jpg
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from crfrnn.inference import refine_volume, to_display_range
from outputs import ready

NAMES = ("neither", "grey matter", "white matter")
COLOURS = np.array([[0, 0, 0], [230, 120, 30], [60, 140, 230]], np.uint8)


def template(resolution: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """T1 Float[X, Y, Z] and maps Float[3, X, Y, Z] that sum to 1, voxels of `resolution` mm."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nilearn import datasets

        t1, grey, white = (
            np.asarray(load(resolution=resolution).dataobj, np.float32)
            for load in (
                datasets.load_mni152_template,
                datasets.load_mni152_gm_template,
                datasets.load_mni152_wm_template,
            )
        )
    grey, white = grey.clip(0, 1), white.clip(0, 1)
    both = np.maximum(grey + white, 1)
    return t1, np.stack([1 - (grey + white) / both, grey / both, white / both])


def worsen(maps: NDArray[np.float32], cube: int, noise: float, seed: int) -> NDArray[np.float32]:
    """Averages over cubes, interpolated linearly, with Gaussian noise on the logits of every voxel."""
    generator = torch.Generator().manual_seed(seed)
    p = torch.from_numpy(maps)[None]
    coarse = torch.nn.functional.avg_pool3d(p, cube, ceil_mode=True, count_include_pad=False)
    spread = torch.nn.functional.interpolate(coarse, p.shape[2:], mode="trilinear")
    logits = spread.clamp_min(1e-3).log() + noise * torch.randn(p.shape, generator=generator)
    return logits.softmax(1)[0].numpy()


def dice(labels: NDArray[np.int64], truth: NDArray[np.int64], label: int) -> float:
    """2 |A ∩ B| / (|A| + |B|)."""
    a, b = labels == label, truth == label
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def picture(t1: NDArray[np.float32], rows: dict[str, NDArray[np.int64]]) -> Image.Image:
    """One row per label map, one column per plane through the middle of the brain."""
    grey = to_display_range(t1[None])[0].clip(0, 255).astype(np.uint8)
    at = [n // 2 + shift for n, shift in zip(t1.shape, (8, 0, 4), strict=True)]
    scale, title, gap = 2, 22, 6
    strips = []
    for name, labels in rows.items():
        tiles = []
        for axis in (2, 1, 0):
            plane = np.flipud(np.take(grey, at[axis], axis).T)
            shown = np.flipud(np.take(labels, at[axis], axis).T)
            rgb = np.repeat(plane[..., None], 3, 2)
            if name != "T1":  # there are few voxels, and the light lines of `overlay` would hide them
                rgb = np.where(shown[..., None] == 0, rgb, 0.45 * rgb + 0.55 * COLOURS[shown]).astype(
                    np.uint8
                )
            tiles.append(Image.fromarray(rgb).resize((rgb.shape[1] * scale, rgb.shape[0] * scale)))
        strip = Image.new(
            "RGB", (sum(t.width + gap for t in tiles), title + max(t.height for t in tiles) + gap), "white"
        )
        ImageDraw.Draw(strip).text((4, 4), name, "black", font_size=15)
        x = 0
        for tile in tiles:
            strip.paste(tile, (x, title))
            x += tile.width + gap
        strips.append(strip)
    half = (len(strips) + 1) // 2
    canvas = Image.new("RGB", (2 * strips[0].width, half * strips[0].height), "white")
    for number, strip in enumerate(strips):
        canvas.paste(strip, ((number % 2) * strip.width, (number // 2) * strip.height))
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--resolution", type=int, default=2, help="voxel size, mm")
    parser.add_argument("--cube", type=int, default=4, help="side of the cubes, voxels")
    parser.add_argument("--noise", type=float, default=1.0, help="standard deviation on the logits")
    parser.add_argument("--picture", type=Path, help="where to draw slices (.jpg, .png)")
    options = parser.parse_args()
    ready(parser, options.picture)
    t1, maps = template(options.resolution)
    truth = maps.argmax(0)
    rough = worsen(maps, options.cube, options.noise, seed=0)
    begun = time.perf_counter()
    result = refine_volume(t1, rough, spacing=(options.resolution,) * 3)
    seconds = time.perf_counter() - begun
    print(
        f"{t1.shape} voxels of {options.resolution} mm, cubes of {options.cube}, "
        f"noise {options.noise}: {seconds:.1f} s"
    )
    for label, name in enumerate(NAMES):
        before, after = (dice(x, truth, label) for x in (result.before, result.labels))
        print(f"{name:14s} Dice {before:.3f} -> {after:.3f}")
    if options.picture is not None:
        rows = {
            "T1": truth,
            "maps as shipped": truth,
            "coarse and noisy": result.before,
            "refined": result.labels,
        }
        picture(t1, rows).save(options.picture, quality=82)


if __name__ == "__main__":
    main()
