# SPDX-License-Identifier: MIT
"""Small development kits on disk, written with other libraries than those that read them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import scipy.sparse
from PIL import Image

from crfrnn.io import write_label_png

SIZE = (5, 7)


def picture(path: Path, seed: int, size: tuple[int, int] = SIZE) -> None:
    """Smooth random colours, different for every seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC).save(path)


def grey_png(path: Path, values: Any, bits: int, transparent: int | None = None) -> None:
    """A grey PNG of 1, 2, 4 or 8 bits that holds the numbers unchanged; Pillow cannot write 2 and 4 bits."""
    rows = [
        np.packbits((np.array(row, np.uint8)[:, None] >> np.arange(bits)[::-1] & 1).reshape(-1)).tobytes()
        for row in values
    ]

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", len(values[0]), len(values), bits, 0, 0, 0, 0)
    clear = b"" if transparent is None else chunk(b"tRNS", struct.pack(">H", transparent))
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + clear + data + chunk(b"IEND", b""))


def voc(root: Path, lists: dict[str, list[str]], year: str = "2012", size: tuple[int, int] = SIZE) -> Path:
    """VOCdevkit/VOC<year> with every id of the lists; label of the mask = place of the id, border void."""
    base = root / "VOCdevkit" / f"VOC{year}"
    for folder in ("ImageSets/Segmentation", "SegmentationClass"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    for name, ids in lists.items():
        (base / f"ImageSets/Segmentation/{name}.txt").write_text("\n".join(ids) + "\n")
    for index, name in enumerate(sorted({i for ids in lists.values() for i in ids})):
        picture(base / f"JPEGImages/{name}.jpg", seed_of(name), size)
        mask = np.full(size, index % 21)
        mask[0] = 255
        write_label_png(base / f"SegmentationClass/{name}.png", mask)
    return base


def seed_of(name: str) -> int:
    return sum(ord(c) * 31**k for k, c in enumerate(name)) % 2**32


def gtcls(segmentation: Any) -> dict[str, Any]:
    """The variable of an SBD file, with the other fields next to the segmentation."""
    height, width = np.shape(segmentation)
    boundaries = np.empty((20, 1), object)
    for k in range(20):
        boundaries[k, 0] = scipy.sparse.csc_matrix(np.eye(height, width, k=k % width, dtype=bool))
    content = {
        "Boundaries": boundaries,
        "Segmentation": segmentation,
        "CategoriesPresent": np.array([[15.0]]),
    }
    return {"GTcls": content}


def sbd(root: Path, lists: dict[str, list[str]], size: tuple[int, int] = SIZE) -> Path:
    """benchmark_RELEASE/dataset; label of the mask = 1 + place of the id."""
    base = root / "benchmark_RELEASE" / "dataset"
    (base / "cls").mkdir(parents=True)
    for name, ids in lists.items():
        (base / f"{name}.txt").write_text("\n".join(ids) + "\n")
    for index, name in enumerate(sorted({i for ids in lists.values() for i in ids})):
        picture(base / f"img/{name}.jpg", seed_of(name), size)
        mask = np.full(size, 1 + index % 20, np.uint8)
        scipy.io.savemat(base / f"cls/{name}.mat", gtcls(mask), do_compression=True)
    return base
