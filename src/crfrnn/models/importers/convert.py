# SPDX-License-Identifier: MIT
"""One function for all origins."""

from __future__ import annotations

from collections.abc import Callable

from crfrnn.io.files import PathLike
from crfrnn.lattice.validate import check_choice
from crfrnn.models.importers.assemble import Converted, Found, assemble
from crfrnn.models.importers.caffe import read_caffe
from crfrnn.models.importers.deeplab import convert_deeplab
from crfrnn.models.importers.keras import read_keras
from crfrnn.models.importers.pytorch import read_pytorch, read_torchvision

Reader = Callable[[PathLike, int | None], Converted]


def _fcn(read: Callable[[PathLike], Found]) -> Reader:
    return lambda source, num_labels: assemble(read(source), num_labels)


READERS: dict[str, Reader] = {
    "caffe": _fcn(read_caffe),
    "keras": _fcn(read_keras),
    "pytorch": _fcn(read_pytorch),
    "torchvision": _fcn(read_torchvision),
    "deeplab": convert_deeplab,
}


def convert(source: PathLike, origin: str, num_labels: int | None = None) -> Converted:
    """A segmenter with the weights of a published file.

    Args:
        source: the file.
        origin: "caffe", "keras", "pytorch" (the CRF-RNN ports), "torchvision" (VGG-16), or "deeplab"
            (DeepLabV3-MobileNetV2 of TensorFlow Lite, or a file with the network's own names).
        num_labels: for a file without score layers.

    Raises: ValueError for an unknown origin, a damaged or hostile file, or weights of another network.
    """
    return READERS[check_choice("origin", origin, READERS)](source, num_labels)
