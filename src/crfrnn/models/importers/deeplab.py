# SPDX-License-Identifier: MIT
"""Weights of DeepLabV3-MobileNetV2: TensorFlow Lite's .tflite, or a file with the network's own names."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crfrnn.io import VOC_CLASSES
from crfrnn.io.files import FileError, PathLike, existing
from crfrnn.io.weights import read_tensors
from crfrnn.models.deeplab import LONG_SIDE, STEM, WIDTHS, DeepLab, load_deeplab
from crfrnn.models.importers.assemble import Converted
from crfrnn.models.importers.caffe import mapped
from crfrnn.models.importers.flat import FlatError, Table
from crfrnn.models.segmenter import Segmenter

ROLE, SUFFIX = "tflite file", ".tflite"
_AGAIN = "name a DeepLabV3-MobileNetV2 at output stride 16, such as deeplabv3_mnv2_pascal_quant.tflite"
# Field numbers and codes of TensorFlow Lite's schema.fbs.
MODEL_CODES, MODEL_GRAPHS, MODEL_BUFFERS = 1, 2, 4
CODE_OLD, CODE_NEW = 0, 3
GRAPH_TENSORS, GRAPH_OPERATORS = 0, 3
TENSOR_SHAPE, TENSOR_TYPE, TENSOR_BUFFER, TENSOR_QUANTISATION = 0, 1, 2, 4
SCALE, ZERO_POINT, AXIS = 2, 3, 6
OPERATOR_CODE, INPUTS, OUTPUTS, OPTIONS = 0, 1, 2, 4
STRIDE_W, STRIDE_H = 1, 2  # fields of the options of both convolutions
BUFFER_DATA = 0
CONV_2D, DEPTHWISE_CONV_2D = 3, 4
TYPES = {0: "<f4", 1: "<f2", 2: "<i4", 3: "u1", 9: "i1"}
RANK = 8
LAYERS, MAX_NUMBERS = 55, 2**24  # eight times the numbers of the larger network


class Convolution(NamedTuple):
    """One operator: weights and bias in PyTorch's layout, and the tensors that it reads and writes."""

    depthwise: bool
    stride: tuple[int, int]
    weight: Tensor
    bias: Tensor
    reads: int
    writes: int


def convert_deeplab(path: PathLike, num_labels: int | None = None) -> Converted:
    """A segmenter without a CRF from a .tflite, or from a .safetensors or .pth with the network's own names.

    Args:
        path: the file.
        num_labels: the expected number of labels; None accepts any.

    Raises: ValueError for a damaged or hostile file, weights of another network, another number of labels.
    """
    tflite = Path(path).suffix.lower() == SUFFIX
    tensors = read_tflite(path) if tflite else read_tensors(path, "deeplab file")
    stem, classifier = tensors.get("backbone.stem.weight"), tensors.get("head.classifier.weight")
    channels = 0 if stem is None else stem.shape[0]
    width = next((w for w in WIDTHS if channels == int(STEM * w)), None)
    if classifier is None or classifier.ndim != 4 or width is None:
        got = f"a stem of {channels} channels" if channels else "none"
        raise ValueError(f"weights: expected those of DeepLabV3-MobileNetV2, got {got}; {_AGAIN}")
    labels = classifier.shape[0]
    if num_labels not in (None, labels):
        raise ValueError(
            f"labels: expected {labels} as in the file, got {num_labels}; omit it here, and train "
            "your own labels with `crfrnn train`"
        )
    network = DeepLab(labels, width=width)
    filled = load_deeplab(network, tensors)
    names = VOC_CLASSES if labels == len(VOC_CLASSES) else ()
    segmenter = Segmenter(network.eval(), class_names=names, long_side=LONG_SIDE)
    return Converted(segmenter.eval(), filled, ())


def read_tflite(path: PathLike) -> dict[str, Tensor]:
    """The 55 convolutions of the graph under the network's names, dequantised: Float32.

    ``weight = scale (q - zero point)``, one scale per tensor or channel; ``bias = scale_in scale_weight q``.
    Layers are identified by the order and the kind of the operators; of the two branches of the head, the
    pooled one is the one that does not read the backbone's last map.

    Raises: ValueError for a damaged or hostile file, or another graph.
    """
    found = existing(path, ROLE)
    try:
        with mapped(str(found)) as data:
            convolutions = _convolutions(Table.root(data, b"TFL3"))
        return _named(convolutions)
    except FileError:
        raise
    except (FlatError, ValueError, OverflowError) as error:
        raise FileError(
            ROLE, path, "a whole DeepLabV3-MobileNetV2 of TensorFlow Lite", str(error), _AGAIN
        ) from error


def _convolutions(model: Table) -> list[Convolution]:
    codes = [max(code.integer(CODE_OLD, "<b"), code.integer(CODE_NEW)) for code in model.tables(MODEL_CODES)]
    graphs, buffers = model.tables(MODEL_GRAPHS), model.tables(MODEL_BUFFERS)
    if len(graphs) != 1:
        raise FlatError(f"expected one graph, got {len(graphs)}")
    tensors, held, found = graphs[0].tables(GRAPH_TENSORS), 0, []
    for operator in graphs[0].tables(GRAPH_OPERATORS):
        code = _at(codes, operator.integer(OPERATOR_CODE, "<I"), "operator code")
        if code not in (CONV_2D, DEPTHWISE_CONV_2D):
            continue
        inputs, outputs = operator.numbers(INPUTS, "<i4"), operator.numbers(OUTPUTS, "<i4")
        if len(inputs) != 3 or len(outputs) != 1:
            raise FlatError(f"expected a convolution of a map, weights and bias, got {len(inputs)} inputs")
        source, weight, bias = (_at(tensors, int(number), "tensor") for number in inputs)
        held += math.prod(_shape(weight)) + math.prod(_shape(bias))
        if len(found) == LAYERS or held > MAX_NUMBERS:  # many tensors may share one buffer
            raise FlatError(f"expected {LAYERS} convolutions of at most {MAX_NUMBERS} numbers, got more")
        values = _values(weight, buffers)
        if values.ndim != 4:
            raise FlatError(f"expected weights of 4 axes, got {values.ndim}")
        depthwise, options = code == DEPTHWISE_CONV_2D, operator.table(OPTIONS)
        steps = (1, 1) if options is None else (options.integer(STRIDE_H), options.integer(STRIDE_W))
        # (out, h, w, in), or (1, h, w, channels) of a depthwise one, becomes (out, in / groups, h, w).
        order = (3, 0, 1, 2) if depthwise else (0, 3, 1, 2)
        biases = _bias(bias, source, weight, buffers)
        kernel, own = (torch.from_numpy(v.copy()) for v in (values.transpose(order), biases))
        found.append(Convolution(depthwise, steps, kernel, own, int(inputs[0]), int(outputs[0])))
    return found


def _named(found: list[Convolution]) -> dict[str, Tensor]:
    with torch.device("meta"):
        layers = {name: m for name, m in DeepLab(1).named_modules() if isinstance(m, nn.Conv2d)}
    names = [name for name in layers if name.startswith("backbone.")]
    if len(found) != LAYERS:
        raise ValueError(f"expected {LAYERS} convolutions, got {len(found)}")
    *branches, _, _ = found[len(names) :]
    last = names[-1]
    local = [c.reads == found[len(names) - 1].writes for c in branches]
    if local not in ([True, False], [False, True]):
        raise ValueError(f"expected one branch of the head on the map of {last}, got {sum(local)}")
    pair = ["head.aspp0", "head.image_pooling"]
    names += [*(pair if local[0] else pair[::-1]), "head.concat_projection", "head.classifier"]
    tensors: dict[str, Tensor] = {}
    for name, convolution in zip(names, found, strict=True):
        layer = layers[name]
        depthwise = layer.groups > 1
        if convolution.depthwise != depthwise or convolution.stride != layer.stride:
            kind = "depthwise" if depthwise else "full"
            raise ValueError(
                f"expected {name} to be a {kind} convolution of stride {layer.stride[0]}, got a "
                f"{'depthwise' if convolution.depthwise else 'full'} one of stride {convolution.stride}"
            )
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = convolution.weight, convolution.bias
    return tensors


def _at(items: list[Any], number: int, what: str) -> Any:
    if not 0 <= number < len(items):
        raise FlatError(f"expected a {what} among {len(items)}, got number {number}")
    return items[number]


def _shape(tensor: Table) -> tuple[int, ...]:
    sides = tuple(int(n) for n in tensor.numbers(TENSOR_SHAPE, "<i4"))
    if len(sides) > RANK or any(side < 1 for side in sides):
        raise FlatError(f"expected a shape of at most {RANK} sides above 0, got {sides[:RANK]}")
    return sides


def _stored(tensor: Table, buffers: list[Table]) -> NDArray[Any]:
    code, shape = tensor.integer(TENSOR_TYPE, "<b"), _shape(tensor)
    if code not in TYPES:
        raise FlatError(f"expected numbers of type {', '.join(map(str, TYPES))}, got type {code}")
    raw = _at(buffers, tensor.integer(TENSOR_BUFFER, "<I"), "buffer").numbers(BUFFER_DATA, "u1")
    if len(raw) != math.prod(shape) * np.dtype(TYPES[code]).itemsize:
        raise FlatError(f"expected {shape} numbers of type {TYPES[code]}, got {len(raw)} bytes")
    return raw.view(TYPES[code]).reshape(shape)


def _scale(tensor: Table) -> tuple[NDArray[Any], NDArray[Any], int]:
    """Scales, zero points and their axis; empty for numbers that are not quantised."""
    how = tensor.table(TENSOR_QUANTISATION)
    if how is None:
        return np.empty(0), np.empty(0), 0
    scales, zeros = how.numbers(SCALE, "<f4").astype(np.float64), how.numbers(ZERO_POINT, "<i8")
    if len(scales) and (not np.isfinite(scales).all() or scales.min() <= 0):
        raise FlatError("expected finite scales above 0, got others")
    return scales, zeros.astype(np.float64), how.integer(AXIS)


def _values(tensor: Table, buffers: list[Table]) -> NDArray[np.float32]:
    stored, (scales, zeros, axis) = _stored(tensor, buffers), _scale(tensor)
    if stored.dtype.kind == "f":
        values = stored.astype(np.float32)
    else:
        along = stored.shape[axis] if 0 <= axis < stored.ndim else 0
        if len(scales) not in (1, along) or len(zeros) not in (0, len(scales)):
            raise FlatError(f"expected one scale, or one for each of {along}, got {len(scales)}")
        shape = [1] * stored.ndim
        shape[axis if len(scales) > 1 else 0] = len(scales)
        zero = zeros.reshape(shape) if len(zeros) else 0.0
        values = (scales.reshape(shape) * (stored - zero)).astype(np.float32)
    if not np.isfinite(values).all():
        raise FlatError("expected finite weights, got NaN or infinity")
    return values


def _bias(bias: Table, source: Table, weight: Table, buffers: list[Table]) -> NDArray[np.float32]:
    stored = _stored(bias, buffers)
    if stored.ndim != 1:
        raise FlatError(f"expected a bias of one axis, got {stored.ndim}")
    if stored.dtype.kind == "f":
        values = stored.astype(np.float32)
    else:
        into, own = _scale(source)[0], _scale(weight)[0]
        if len(into) != 1 or len(own) not in (1, len(stored)):
            raise FlatError(f"expected one scale of the input of a convolution, got {len(into)}")
        values = (stored * (into * own)).astype(np.float32)
    if not np.isfinite(values).all():
        raise FlatError("expected finite biases, got NaN or infinity")
    return values
