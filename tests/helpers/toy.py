# SPDX-License-Identifier: MIT
"""Small pictures of coloured regions with noisy unaries, in the folder layout that the commands read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from crfrnn.datasets import FolderUnaries, UnaryDataset, folder_pictures
from crfrnn.io import write_label_png

LABELS = 3
SIZE = (18, 22)
COLOURS = np.array([[200, 60, 40], [40, 180, 60], [60, 70, 200]])


def make_pictures(root: Path, pictures: int = 6, seed: int = 0) -> Path:
    """images/p0.png, masks/p0.png (void between the labels) and unaries/p0.npy (logits, lhw), …"""
    rng = np.random.default_rng(seed)
    for name in ("images", "masks", "unaries"):
        (root / name).mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    for k in range(pictures):
        truth = np.zeros(SIZE, np.uint8)
        truth[(y - rng.uniform(6, 12)) ** 2 + (x - rng.uniform(10, 16)) ** 2 < 30] = 1
        truth[:, : int(rng.integers(2, 6))] = 2
        image = (COLOURS[truth] + rng.normal(0, 6, (*SIZE, 3))).clip(0, 255).astype(np.uint8)
        unary = np.eye(LABELS)[truth].transpose(2, 0, 1) * 1.2 + rng.normal(0, 1.2, (LABELS, *SIZE))
        mask = truth.copy()
        mask[:, 1:][truth[:, 1:] != truth[:, :-1]] = 255
        Image.fromarray(image).save(root / "images" / f"p{k}.png")
        write_label_png(root / "masks" / f"p{k}.png", mask)
        np.save(root / "unaries" / f"p{k}.npy", unary.astype(np.float32))
    return root


def toy_data(root: Path) -> UnaryDataset:
    """The pictures of `make_pictures` in a new folder, with their unaries."""
    make_pictures(root)
    unaries = FolderUnaries(root / "unaries", {"kind": "logits", "axes": "lhw"})
    return UnaryDataset(folder_pictures(root), unaries, LABELS)
