# SPDX-License-Identifier: MIT
"""DeepLab from TensorFlow Lite: files written by the official packages, read back; hostile ones refused."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
import tflite
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from crfrnn.io import VOC_CLASSES
from crfrnn.models import DEEPLAB, DeepLab
from crfrnn.models.importers import convert
from crfrnn.models.importers.deeplab import read_tflite

INPUT_SCALE = 0.0078125


@dataclass
class Graph:
    """A model being written: tensors, buffers, operators, in the order of the file."""

    kind: str = "uint8"  # or "int8" by channel, or "float"
    builder: Any = field(default_factory=lambda: flatbuffers.Builder(1 << 20))
    tensors: list[int] = field(default_factory=list)
    buffers: list[int] = field(default_factory=list)
    operators: list[int] = field(default_factory=list)
    want: dict[str, Tensor] = field(default_factory=dict)

    def vector(self, values: Any, dtype: str) -> int:
        return self.builder.CreateNumpyVector(np.asarray(values, dtype))

    def tensor(
        self, shape: Any, kind: int, data: Any = None, scale: Any = (), zero: Any = (), axis: int = 0
    ) -> int:
        b = self.builder
        held = None if data is None else self.vector(data.reshape(-1).view(np.uint8), "u1")
        tflite.BufferStart(b)
        if held is not None:
            tflite.BufferAddData(b, held)
        self.buffers.append(tflite.BufferEnd(b))
        scales, zeros = self.vector(scale, "<f4"), self.vector(zero, "<i8")
        tflite.QuantizationParametersStart(b)
        tflite.QuantizationParametersAddScale(b, scales)
        tflite.QuantizationParametersAddZeroPoint(b, zeros)
        tflite.QuantizationParametersAddQuantizedDimension(b, axis)
        how, sides = tflite.QuantizationParametersEnd(b), self.vector(shape, "<i4")
        tflite.TensorStart(b)
        tflite.TensorAddShape(b, sides)
        tflite.TensorAddType(b, kind)
        tflite.TensorAddBuffer(b, len(self.buffers) - 1)
        tflite.TensorAddQuantization(b, how)
        self.tensors.append(tflite.TensorEnd(b))
        return len(self.tensors) - 1

    def map(self, scale: float = INPUT_SCALE) -> int:
        """An intermediate tensor between two operators: no data; its size does not matter here."""
        return self.tensor((1, 1, 1, 1), tflite.TensorType.UINT8, scale=(scale,), zero=(128,))

    def operator(self, code: int, inputs: list[int], options: int | None = None, scale: float = 0.02) -> int:
        out = self.map(scale)
        read, written = self.vector(inputs, "<i4"), self.vector([out], "<i4")
        tflite.OperatorStart(self.builder)
        tflite.OperatorAddOpcodeIndex(self.builder, CODES.index(code))
        tflite.OperatorAddInputs(self.builder, read)
        tflite.OperatorAddOutputs(self.builder, written)
        if options is not None:
            tflite.OperatorAddBuiltinOptions(self.builder, options)
        self.operators.append(tflite.OperatorEnd(self.builder))
        return out

    def convolution(self, name: str, layer: nn.Conv2d, source: int, scale: float) -> int:
        """One operator with its weights quantised, and what they are once dequantised."""
        b, depthwise = self.builder, layer.groups > 1
        assert layer.bias is not None
        weight = layer.weight.detach().numpy().transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1)).copy()
        bias, axis = layer.bias.detach().numpy(), 3 if depthwise else 0
        if self.kind == "float":
            kernel = self.tensor(weight.shape, tflite.TensorType.FLOAT32, weight)
            added = self.tensor(bias.shape, tflite.TensorType.FLOAT32, bias)
            got, own = weight, bias
        else:
            by_channel = self.kind == "int8"
            others = tuple(a for a in range(4) if a != axis) if by_channel else None
            low, high = weight.min(others, keepdims=by_channel), weight.max(others, keepdims=by_channel)
            if by_channel:
                steps = (np.maximum(-low, high) / 127).astype(np.float32)
                zero = np.zeros(steps.size, np.int64)
                q = np.clip(np.round(weight / steps), -127, 127).astype(np.int8)
            else:
                steps = np.float32((high - low) / 255)
                zero = np.array([round(float(-low / steps))])
                q = np.clip(np.round(weight / steps) + zero, 0, 255).astype(np.uint8)
            code = tflite.TensorType.INT8 if by_channel else tflite.TensorType.UINT8
            flat = np.asarray(steps).reshape(-1)
            kernel = self.tensor(q.shape, code, q, flat, zero, axis if by_channel else 0)
            fine = flat.astype(np.float64) * np.float32(scale)
            units = np.round(bias / fine).astype(np.int32)
            added = self.tensor(units.shape, tflite.TensorType.INT32, units, fine[:1], (0,))
            got = (
                np.asarray(steps, np.float64) * (q - (0.0 if by_channel else zero.astype(np.float64)))
            ).astype("f4")
            own = (units * fine).astype(np.float32)
        self.want[f"{name}.weight"] = torch.from_numpy(
            got.transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2)).copy()
        )
        self.want[f"{name}.bias"] = torch.from_numpy(own)
        start, end = (
            (tflite.DepthwiseConv2DOptionsStart, tflite.DepthwiseConv2DOptionsEnd) if depthwise
            else (tflite.Conv2DOptionsStart, tflite.Conv2DOptionsEnd)
        )  # fmt: skip
        part = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
        start(b)
        getattr(tflite, f"{part}AddStrideW")(b, layer.stride[1])
        getattr(tflite, f"{part}AddStrideH")(b, layer.stride[0])
        getattr(tflite, f"{part}AddDilationWFactor")(b, layer.dilation[1])
        getattr(tflite, f"{part}AddDilationHFactor")(b, layer.dilation[0])
        code = tflite.BuiltinOperator.DEPTHWISE_CONV_2D if depthwise else tflite.BuiltinOperator.CONV_2D
        return self.operator(code, [source, kernel, added], end(b))

    def finish(self, identifier: bytes = b"TFL3") -> bytes:
        b = self.builder

        def offsets(start: Any, items: list[int]) -> int:
            start(b, len(items))
            for item in reversed(items):
                b.PrependUOffsetTRelative(item)
            return b.EndVector()

        tensors = offsets(tflite.SubGraphStartTensorsVector, self.tensors)
        operators = offsets(tflite.SubGraphStartOperatorsVector, self.operators)
        tflite.SubGraphStart(b)
        tflite.SubGraphAddTensors(b, tensors)
        tflite.SubGraphAddOperators(b, operators)
        graph, codes = tflite.SubGraphEnd(b), []
        for code in CODES:
            tflite.OperatorCodeStart(b)
            tflite.OperatorCodeAddDeprecatedBuiltinCode(b, code)
            codes.append(tflite.OperatorCodeEnd(b))
        graphs = offsets(tflite.ModelStartSubgraphsVector, [graph])
        known = offsets(tflite.ModelStartOperatorCodesVector, codes)
        buffers = offsets(tflite.ModelStartBuffersVector, self.buffers)
        tflite.ModelStart(b)
        tflite.ModelAddVersion(b, 3)
        tflite.ModelAddOperatorCodes(b, known)
        tflite.ModelAddSubgraphs(b, graphs)
        tflite.ModelAddBuffers(b, buffers)
        b.Finish(tflite.ModelEnd(b), identifier)
        return bytes(b.Output())


_OP = tflite.BuiltinOperator
CODES = [
    _OP.CONV_2D, _OP.DEPTHWISE_CONV_2D, _OP.ADD, _OP.AVERAGE_POOL_2D, _OP.RESIZE_BILINEAR, _OP.CONCATENATION,
    _OP.ARG_MAX,
]  # fmt: skip


def written(
    network: DeepLab, kind: str = "uint8", pooled_first: bool = True
) -> tuple[bytes, dict[str, Tensor]]:
    """The network as in TensorFlow Lite: its operators in execution order."""
    graph = Graph(kind)
    layers = {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    scales = {graph.map(): INPUT_SCALE}

    def conv(name: str, source: int) -> int:
        out = graph.convolution(name, layers[name], source, scales.get(source, 0.02))
        scales[out] = 0.02
        return out

    now = conv("backbone.stem", next(iter(scales)))
    for number, block in enumerate(network.backbone.blocks):
        before, name = now, f"backbone.blocks.{number}"
        if number:
            now = conv(f"{name}.expand", now)
        now = conv(f"{name}.project", conv(f"{name}.depthwise", now))
        if block.residual:
            now = graph.operator(_OP.ADD, [before, now])

    def pooling() -> int:
        small = conv("head.image_pooling", graph.operator(_OP.AVERAGE_POOL_2D, [now]))
        return graph.operator(_OP.RESIZE_BILINEAR, [small])

    if pooled_first:
        pooled, local = pooling(), conv("head.aspp0", now)
    else:
        local = conv("head.aspp0", now)
        pooled = pooling()
    both = graph.operator(_OP.CONCATENATION, [pooled, local])
    logits = conv("head.classifier", conv("head.concat_projection", both))
    graph.operator(_OP.ARG_MAX, [graph.operator(_OP.RESIZE_BILINEAR, [logits])])
    return graph.finish(), graph.want


@pytest.fixture(scope="module")
def network() -> DeepLab:
    torch.manual_seed(0)
    made = DeepLab(21, width=0.5)
    with torch.no_grad():
        for name, value in made.named_parameters():
            if name.endswith("bias"):
                value.normal_(std=0.1)
    return made


@pytest.mark.parametrize("pooled_first", [True, False])
@pytest.mark.parametrize("kind", ["uint8", "int8", "float"])
def test_weights_come_back_dequantised(
    tmp_path: Path, network: DeepLab, kind: str, pooled_first: bool
) -> None:
    data, want = written(network, kind, pooled_first)
    path = tmp_path / "net.tflite"
    path.write_bytes(data)
    found = convert(path, "deeplab")
    assert len(found.filled) == 110 and not found.fresh
    segmenter = found.segmenter
    assert segmenter.crf is None and segmenter.class_names == VOC_CLASSES
    assert segmenter.preprocessing == DEEPLAB and segmenter.long_side == 513
    got = segmenter.network.state_dict()
    own = network.state_dict()
    for name, value in want.items():
        assert torch.equal(got[name], value), name
        # The file holds the original weights, to half a quantisation step (at most 256 steps).
        spread = float(own[name].max() - own[name].min())
        assert float((got[name] - own[name]).abs().max()) <= spread / 254 + 1e-3, name
    with pytest.raises(ValueError, match="labels: expected 21 as in the file, got 5; omit it here"):
        convert(path, "deeplab", 5)


def test_safetensors_with_the_network_s_own_names(tmp_path: Path, network: DeepLab) -> None:
    path = tmp_path / "net.safetensors"
    save_file({name: value.half() for name, value in network.state_dict().items()}, path)
    got = convert(path, "deeplab").segmenter.network
    assert isinstance(got, DeepLab) and got.recipe.arguments["width"] == 0.5
    assert torch.equal(got.head.aspp0.weight, network.head.aspp0.weight.half().float())
    save_file({"conv1_1.weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="weights: expected those of DeepLabV3-MobileNetV2"):
        convert(path, "deeplab")


@pytest.mark.real
@pytest.mark.parametrize("width", [1.0, 0.5])
def test_given_weights_survive_a_float_file(tmp_path: Path, shared: Path, width: float) -> None:
    part = "" if width == 1.0 else "dm05_"
    given = convert(shared / "weights" / f"deeplabv3_mnv2_{part}voc_fp16.safetensors", "deeplab")
    again, network = tmp_path / "net.tflite", given.segmenter.network
    assert isinstance(network, DeepLab)
    again.write_bytes(written(network, "float")[0])
    got = convert(again, "deeplab").segmenter.network.state_dict()
    assert all(torch.equal(value, got[name]) for name, value in network.state_dict().items())


def refused(path: Path, data: bytes, said: str) -> None:
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"tflite file '.*net\.tflite'[\s\S]*{said}"):
        read_tflite(path)


def test_other_graphs_and_damage_are_refused(tmp_path: Path, network: DeepLab) -> None:
    path = tmp_path / "net.tflite"
    data, _ = written(network)
    refused(path, b"", "empty file")
    refused(path, b"TFL3", "TFL3")
    refused(path, data[:4] + b"TFL2" + data[8:], "expected 'TFL3'")
    refused(path, struct.pack("<I", 2**31) + data[4:], "within the")
    for end in (8, 100, len(data) // 2, len(data) - 7000):
        refused(path, data[:end], "expected")
    strides = DeepLab(21, width=0.5)
    strides.get_submodule("backbone.blocks.6.depthwise").stride = (1, 1)  # type: ignore[assignment]
    refused(path, written(strides)[0], r"blocks\.6\.depthwise to be a depthwise convolution of stride 2")
    less = DeepLab(21, width=0.5)
    del less.backbone.blocks[16]
    refused(path, written(less)[0], "expected 55 convolutions, got 52")
    with torch.no_grad():
        less.head.aspp0.weight.fill_(float("nan"))
    refused(path, written(less, "float")[0], "finite weights")


@pytest.mark.slow
def test_mutated_files_give_weights_or_an_error(tmp_path: Path) -> None:
    """For any changed byte of the structure: an error that names the file, or the 110 tensors, quickly."""
    torch.manual_seed(0)
    data, _ = written(DeepLab(2, width=0.5))
    path, rng, errors = tmp_path / "net.tflite", np.random.default_rng(1), 0
    front = (
        12_000  # lists, graph and operators lie in front, tensors and buffers after them among the weights
    )
    for _ in range(150):
        changed = bytearray(data)
        places = [*rng.integers(front, size=4), *rng.integers(len(data), size=40)]
        for place in places:
            changed[place] = int(rng.choice([0, 1, 127, 128, 255, int(rng.integers(256))]))
        path.write_bytes(changed)
        try:
            assert len(read_tflite(path)) == 110
        except ValueError as error:
            errors += 1
            assert "net.tflite" in str(error)
    assert errors > 30
