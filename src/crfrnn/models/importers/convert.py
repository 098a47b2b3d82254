# SPDX-License-Identifier: MIT
"""One call for every origin."""

from __future__ import annotations

from crfrnn.io.files import PathLike
from crfrnn.models.importers.assemble import Converted, assemble
from crfrnn.models.importers.caffe import read_caffe
from crfrnn.models.importers.keras import read_keras
from crfrnn.models.importers.pytorch import read_pytorch, read_torchvision

READERS = {"caffe": read_caffe, "keras": read_keras, "pytorch": read_pytorch, "torchvision": read_torchvision}


def convert(source: PathLike, origin: str, num_labels: int | None = None) -> Converted:
    """A segmenter with the weights of somebody else's file.

    Args:
        source: the file.
        origin: "caffe", "keras", "pytorch" (the CRF-RNN ports) or "torchvision" (VGG-16).
        num_labels: where the file has no score layers.

    Raises: ValueError for an unknown origin, a damaged or hostile file, or weights of another network.
    """
    if origin not in READERS:
        raise ValueError(f"origin: expected one of {', '.join(READERS)}, got {origin!r}")
    return assemble(READERS[origin](source), num_labels)
