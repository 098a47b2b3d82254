# SPDX-License-Identifier: MIT
"""Weights of a .caffemodel, read without Caffe."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from crfrnn.io.files import FileError, PathLike, existing
from crfrnn.io.weights import check_amount
from crfrnn.models.importers.assemble import CRF_PARTS, NAMES, Found
from crfrnn.models.importers.wire import BYTES, FIXED32, FIXED64, Field, WireError, fields, varints
from crfrnn.models.preprocessing import CAFFE, CAFFE_GUIDE
from crfrnn.models.vgg16 import matrix_as_kernel

# Field numbers of caffe.proto.
NET_V1_LAYER, NET_LAYER = 2, 100
SHAPE_DIM = 1
NUM, CHANNELS, HEIGHT, WIDTH, DATA, SHAPE, DOUBLE_DATA = 1, 2, 3, 4, 5, 7, 8


class LayerNumbers(NamedTuple):
    name: int
    blobs: int


V1_LAYER, LAYER, V0_IN_V1 = LayerNumbers(name=4, blobs=6), LayerNumbers(name=1, blobs=7), 1
_AGAIN = "download it again; for the original model expect 537,968,303 bytes"


def read_caffemodel(path: PathLike) -> dict[str, list[Tensor]]:
    """The blobs of each layer by name, Float32, in their order; layers without blobs have an empty list.

    Both formats are read: V1 (field ``layers``), as the CRF-RNN model is, and the later ``layer``.

    Raises: ValueError for a damaged or hostile file, and for the older V0 format.
    """
    found = existing(path, "caffemodel")
    layers: dict[str, list[Tensor]] = {}
    numbers_held = 0
    try:
        with mapped(str(found)) as data:
            for field in fields(data):
                if field.number in (NET_V1_LAYER, NET_LAYER):
                    numbers = V1_LAYER if field.number == NET_V1_LAYER else LAYER
                    name, blobs = _layer(field.message(), numbers)
                    if blobs and layers.get(name):
                        raise WireError(f"two layers {name!r} with weights")
                    layers[name] = blobs or layers.get(name, [])
                    numbers_held += sum(blob.numel() for blob in blobs)
                    check_amount(path, "caffemodel", (numbers_held,))
    except FileError:
        raise
    except (WireError, ValueError, OverflowError) as error:
        raise FileError("caffemodel", path, "a whole Caffe network", str(error), _AGAIN) from error
    if not any(layers.values()):
        raise FileError("caffemodel", path, "layers with weights", f"{len(layers)} layers without", _AGAIN)
    return layers


@contextmanager
def mapped(path: str) -> Iterator[memoryview]:
    """The bytes of a file, memory-mapped instead of read."""
    with open(path, "rb") as stream:
        # Not closed explicitly: an error's traceback may still hold views, and the last one releases it.
        yield memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))


def _layer(message: memoryview, numbers: LayerNumbers) -> tuple[str, list[Tensor]]:
    name, blobs = "", []
    for field in fields(message):
        if numbers is V1_LAYER and field.number == V0_IN_V1 and field.kind == BYTES:
            raise WireError("a layer of the V0 format; upgrade it with Caffe's upgrade_net_proto_binary")
        if field.number == numbers.name:
            name = field.text()
        elif field.number == numbers.blobs:
            blobs.append(_blob(field.message()))
    return name, blobs


def _blob(message: memoryview) -> Tensor:
    legacy = dict.fromkeys((NUM, CHANNELS, HEIGHT, WIDTH), 1)
    shape: list[int] | None = None
    singles, doubles = bytearray(), bytearray()
    for field in fields(message):
        if field.number in legacy:
            legacy[field.number] = field.integer()
        elif field.number == SHAPE:
            shape = _dims(field.message())
        elif field.number == DATA:
            singles += _numbers(field, FIXED32)
        elif field.number == DOUBLE_DATA:
            doubles += _numbers(field, FIXED64)
    if singles and doubles:
        raise WireError("a blob with single and double precision")
    values = np.frombuffer(doubles, "<f8").astype("<f4") if doubles else np.frombuffer(singles, "<f4")
    size = list(legacy.values()) if shape is None else shape
    if len(size) > 8 or math.prod(size) != values.size:
        raise WireError(f"a blob of shape {size[:8]} with {values.size} numbers")
    if not np.isfinite(values).all():
        raise WireError(f"a blob of shape {size} with NaN or infinity")
    return torch.from_numpy(values.astype(np.float32, copy=False)).reshape(size)


def _numbers(field: Field, single: int) -> memoryview:
    """Packed numbers, or a single unpacked one."""
    view, size = field.view(), 4 if single == FIXED32 else 8
    if field.kind not in (BYTES, single) or len(view) % size:
        raise WireError(f"field {field.number}: numbers of {size} bytes expected, {len(view)} bytes found")
    return view


def _dims(message: memoryview) -> list[int]:
    dims: list[int] = []
    for field in fields(message):
        if field.number == SHAPE_DIM:
            dims += varints(field.view()) if field.kind == BYTES else [field.integer()]
    return dims


def read_caffe(path: PathLike) -> Found:
    """The original CRF-RNN model, an FCN of its family, or VGG-16, in this package's names and conventions.

    Kernels need no change. ``conv1_1`` takes B, G, R: its channels are reversed. Biases may be stored as
    (1, 1, 1, C), inner products as (1, 1, out, in). The CRF's layer is the one with three (1, 1, L, L) blobs:
    spatial weights, bilateral weights, compatibility; signs and sides are those of `CRFRNN`.
    """
    tensors: dict[str, Tensor] = {}
    layers = read_caffemodel(path)
    for name, blobs in layers.items():
        if len(blobs) == 3 and all(b.ndim >= 2 and b.shape[-1] ** 2 == b.numel() for b in blobs):
            for part, blob in zip(CRF_PARTS, blobs, strict=True):
                tensors[f"crf.{part}"] = blob.reshape(blob.shape[-1], -1)
            continue
        ours = NAMES.get(name)
        if ours is None or not blobs:
            continue
        weight = blobs[0]
        if ours in ("fc6", "fc7") and math.prod(weight.shape[:-2]) == 1:
            weight = matrix_as_kernel(weight.reshape(weight.shape[-2:]), 7 if ours == "fc6" else 1)
        tensors[f"{ours}.weight"] = weight
        if len(blobs) > 1:
            tensors[f"{ours}.bias"] = blobs[1].flatten()
    return Found(tensors, CAFFE, CAFFE_GUIDE, bgr=True, at_once="scale_pool4" in layers)
