# SPDX-License-Identifier: MIT
"""Pictures and ImageNet weights for `gpu_table1.py`, packed to be copied to a machine with a GPU.

    python experiments/gpu_pack.py            # from $CRFRNN_SHARED into build/gpu-data, which git ignores

pictures.zip holds the VOC 2012 person subset (train, val) and COCO's pictures with VOC's labels (coco) at a
longer side of 320 pixels: JPEG, masks as PNG. The photographs are subject to their owners' terms: for
research, not to be published.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from crfrnn.datasets import PictureSet, coco_pictures, reduced, shared_folder, voc_pictures
from crfrnn.io.files import prepared

SIDE, QUALITY = 320, 80
WEIGHTS = "vgg16_imagenet_features_fp16.safetensors"


def encoded(values: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **({"quality": QUALITY} if kind == "JPEG" else {}))
    return buffer.getvalue()


def write(archive: zipfile.ZipFile, part: str, pictures: PictureSet) -> int:
    for item in reduced(pictures, SIDE):
        archive.writestr(f"{part}/{item.id}.jpg", encoded(item.image, "JPEG"))
        archive.writestr(f"{part}/{item.id}.png", encoded(item.mask, "PNG"))
    return len(pictures)


def main() -> int:
    parser = argparse.ArgumentParser(description="Pictures and weights for a GPU machine without a network.")
    parser.add_argument("--out", type=Path, default=Path("build/gpu-data"))
    parser.add_argument("--limit", type=int, help="only so many pictures of each part")
    options = parser.parse_args()
    prepared(options.out / "pictures.zip")
    shared = shared_folder()
    if shared is None:
        parser.error("expected the real pictures in $CRFRNN_SHARED, by default ../shared; got none")
    voc = shared / "data" / "voc2012-person" / "VOCdevkit"
    sets = {
        "train": voc_pictures(voc, "train"),
        "val": voc_pictures(voc, "val"),
        "coco": coco_pictures(shared / "data" / "coco-mini", "train2017"),
    }
    target = options.out / "pictures.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for part, pictures in sets.items():
            chosen = pictures.select(pictures.ids[: options.limit])
            print(f"{part}: {write(archive, part, chosen)} pictures", flush=True)
    shutil.copyfile(shared / "weights" / WEIGHTS, options.out / WEIGHTS)
    for file in (target, options.out / WEIGHTS):
        print(f"{file}: {file.stat().st_size / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
