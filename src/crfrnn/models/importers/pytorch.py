# SPDX-License-Identifier: MIT
"""Weights of the PyTorch port, and of torchvision's VGG-16."""

from __future__ import annotations

from crfrnn.io.files import PathLike
from crfrnn.io.weights import read_tensors
from crfrnn.models.importers.assemble import NAMES, Found
from crfrnn.models.importers.keras import CRF_NAMES
from crfrnn.models.preprocessing import CAFFE, CAFFE_GUIDE, IMAGENET, Preprocessing
from crfrnn.models.vgg16 import vgg16_tensors


def read_pytorch(path: PathLike) -> Found:
    """The PyTorch port's state_dict in this package's conventions.

    Names and shapes are ours. ``conv1_1`` takes B, G, R. The port adds, ``x ← U + Mu·msg`` with Mu from +I,
    so its Mu is minus our compatibility.

    Raises: ValueError for another kind of file, or a pickle that would run code.
    """
    tensors = {}
    for name, value in read_tensors(path, "pytorch file").items():
        layer, _, part = name.removeprefix("module.").rpartition(".")  # module.: DataParallel
        if part in CRF_NAMES:
            sign = -1 if part == "compatibility_matrix" else 1
            tensors[f"crf.{CRF_NAMES[part]}"] = sign * value.float()
        elif layer in NAMES:
            tensors[f"{NAMES[layer]}.{part}"] = value.float()
    return Found(tensors, CAFFE, CAFFE_GUIDE, bgr=True)


def read_torchvision(path: PathLike) -> Found:
    """torchvision's VGG-16 (.pth or .safetensors): RGB, ImageNet's mean and deviation, channels unchanged."""
    return Found(vgg16_tensors(read_tensors(path, "torchvision file")), IMAGENET, Preprocessing())
