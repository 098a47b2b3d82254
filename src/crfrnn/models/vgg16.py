# SPDX-License-Identifier: MIT
"""Load ImageNet's VGG-16 into an FCN: convolutions unchanged, the classifier's matrices as fc6 and fc7."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from crfrnn.io.files import PathLike
from crfrnn.io.weights import read_tensors
from crfrnn.models.fcn import FCN, VGG_DEPTHS
from crfrnn.models.preprocessing import IMAGENET


def _positions() -> dict[str, str]:
    """``features.N`` of torchvision (ReLUs and pools count) → our names; fc6 and fc7 of the classifier."""
    names, position = {}, 0
    for block, depth in enumerate(VGG_DEPTHS, 1):
        for number in range(1, depth + 1):
            names[f"features.{position}"] = f"conv{block}_{number}"
            position += 2
        position += 1
    return names | {"classifier.0": "fc6", "classifier.3": "fc7"}


VGG16_NAMES = _positions()


def vgg16_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names and shapes for a VGG-16 state dict with torchvision's names.

    The matrix of fc6 [4096, 512·7·7] was trained on a flattened 7×7 map, row by row within a channel, so it
    equals the kernel [4096, 512, 7, 7]; that of fc7 is 1×1.

    Args:
        state: ``features.N.weight|bias`` and, optionally, ``classifier.0|3.weight|bias``.

    Raises:
        ValueError: a convolution is missing.
    """
    found: dict[str, Tensor] = {}
    for theirs, ours in VGG16_NAMES.items():
        if ours.startswith("fc") and f"{theirs}.weight" not in state:
            continue
        for part in ("weight", "bias"):
            if f"{theirs}.{part}" not in state:
                raise ValueError(
                    f"weights: expected the 13 convolutions of VGG-16, got none named {theirs}.{part}; "
                    "torchvision's vgg16 (without batch norm) has these names"
                )
            found[f"{ours}.{part}"] = state[f"{theirs}.{part}"].float()
    for name, side in (("fc6.weight", 7), ("fc7.weight", 1)):
        if name in found and found[name].ndim == 2:
            found[name] = matrix_as_kernel(found[name], side)
    return found


def matrix_as_kernel(matrix: Tensor, side: int) -> Tensor:
    """[out, in·side·side] → [out, in, side, side]; ValueError if the sizes do not divide."""
    if matrix.ndim != 2 or matrix.shape[1] % (side * side):
        raise ValueError(f"weights: expected a matrix of {side}×{side} maps, got shape {tuple(matrix.shape)}")
    return matrix.reshape(matrix.shape[0], -1, side, side)


def load_vgg16(network: FCN, source: PathLike | Mapping[str, Tensor]) -> tuple[str, ...]:
    """Load ImageNet's VGG-16 into an FCN; returns the names of the layers that were filled.

    fc6 and fc7 are filled if the source has them and stay fresh otherwise. The network's `preprocessing` is
    set to ImageNet's, which these weights were trained with.

    Args:
        network: with VGG-16's widths.
        source: a state dict with torchvision's names, or its .safetensors or .pth file, in any precision.

    Raises:
        ValueError: missing layers, or shapes that do not fit the network.
    """
    tensors = vgg16_tensors(source if isinstance(source, Mapping) else read_tensors(source))
    own = network.state_dict()
    for name, value in tensors.items():
        if own[name].shape != value.shape:
            raise ValueError(
                f"{name}: expected shape {tuple(own[name].shape)} as it has, got {tuple(value.shape)}; "
                "build it with the default widths"
            )
    with torch.no_grad():
        network.load_state_dict({**own, **tensors})
    network.preprocessing = IMAGENET
    return tuple(dict.fromkeys(name.split(".")[0] for name in tensors))
