# SPDX-License-Identifier: MIT
"""The classes and colours of PASCAL VOC, and the value of unlabelled pixels in its masks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
VOID = 255  # unlabelled pixels: the cream band around objects in VOC masks


def voc_palette(colours: int = 256) -> NDArray[np.uint8]:
    """The VOC colour of every label, UInt8[colours, 3], RGB.

    Bit k of the label goes to bit 7 - k // 3 of channel k mod 3: label 1 is (128, 0, 0), 255 (224, 224, 192).

    Source: PASCAL VOC development kit, VOClabelcolormap.m.

    >>> voc_palette()[[0, 1, 15, 255]].tolist()
    [[0, 0, 0], [128, 0, 0], [192, 128, 128], [224, 224, 192]]
    """
    if not 1 <= colours <= 256:
        raise ValueError(f"colours: expected 1..256, got {colours}; a pixel of an indexed picture is a byte")
    labels = np.arange(colours)
    palette = np.zeros((colours, 3), np.uint8)
    for bit in range(8):
        palette[:, bit % 3] |= ((labels >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    return palette
