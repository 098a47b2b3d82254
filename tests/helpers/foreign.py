# SPDX-License-Identifier: MIT
"""Hand-made weight files in the formats of other systems, and those systems' output."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

import dense_crf
from classic_lattice import ClassicLattice

Array = NDArray[np.float32]
LABELS, WIDTHS, HIDDEN, DEPTHS = 3, (2, 3, 4, 5, 6), 7, (2, 2, 3, 3, 3)
MEAN_BGR = (103.939, 116.779, 123.68)
CRF = ("spatial", "bilateral", "mu")


def weights(seed: int = 0) -> dict[str, list[Array]]:
    """A small CRF-RNN with the original's names and Caffe's layouts: kernel (out, in, h, w), then bias."""
    rng = np.random.default_rng(seed)
    made: dict[str, list[Array]] = {}

    def layer(name: str, *shape: int, bias: int = 0) -> None:
        scale = (2 / np.prod(shape[1:])) ** 0.5
        made[name] = [(scale * rng.standard_normal(shape)).astype(np.float32)]
        if bias:
            made[name].append((0.1 * rng.standard_normal(bias)).astype(np.float32))

    before = 3
    for block, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True), 1):
        for number in range(1, depth + 1):
            layer(f"conv{block}_{number}", width, before, 3, 3, bias=width)
            before = width
    layer("fc6", HIDDEN, before, 7, 7, bias=HIDDEN)
    layer("fc7", HIDDEN, HIDDEN, 1, 1, bias=HIDDEN)
    for name, inputs in (("score-fr", HIDDEN), ("score-pool4", WIDTHS[3]), ("score-pool3", WIDTHS[2])):
        layer(name, LABELS, inputs, 1, 1, bias=LABELS)
    layer("score2", LABELS, LABELS, 4, 4, bias=LABELS)
    layer("score4", LABELS, LABELS, 4, 4)
    layer("upsample", LABELS, LABELS, 16, 16)
    eye = np.eye(LABELS)
    made["inference1"] = [
        (factor * eye + 0.3 * rng.standard_normal((LABELS, LABELS))).astype(np.float32)
        for factor in (3, 5, -1)
    ]
    return made


def caffe_unary(made: Mapping[str, Sequence[Array]], bgr: Tensor) -> Tensor:
    """FCN-8s as in the original network file: BGR input, padding 100, crops 5, 9 and 31."""
    w = {name: [torch.from_numpy(a).double() for a in arrays] for name, arrays in made.items()}
    x, pools = bgr, []
    for block, depth in enumerate(DEPTHS, 1):
        for number in range(1, depth + 1):
            padding = 100 if (block, number) == (1, 1) else 1
            x = F.conv2d(x, *w[f"conv{block}_{number}"], padding=padding).relu()
        x = F.max_pool2d(x, 2, 2, ceil_mode=True)
        pools.append(x)
    x = F.conv2d(F.conv2d(x, *w["fc6"]).relu(), *w["fc7"]).relu()
    x = F.conv_transpose2d(F.conv2d(x, *w["score-fr"]), *w["score2"], stride=2)
    x = x + F.conv2d(pools[3], *w["score-pool4"])[:, :, 5:, 5:][:, :, : x.shape[2], : x.shape[3]]
    x = F.conv_transpose2d(x, *w["score4"], stride=2)
    x = x + F.conv2d(pools[2], *w["score-pool3"])[:, :, 9:, 9:][:, :, : x.shape[2], : x.shape[3]]
    x = F.conv_transpose2d(x, *w["upsample"], stride=8)
    return x[:, :, 31 : 31 + bgr.shape[2], 31 : 31 + bgr.shape[3]]


def caffe_output(
    made: Mapping[str, Sequence[Array]], rgb: Tensor, thetas: Sequence[float], steps: int = 10
) -> Tensor:
    """``x ← U - Mu (Ws S + Wb B)``, guide x, y, B, G, R of the mean-subtracted picture."""
    bgr = rgb.double().flip(1) - torch.tensor(MEAN_BGR, dtype=torch.float64).reshape(1, 3, 1, 1)
    unary = caffe_unary(made, bgr)[0].numpy()
    w_spatial, w_bilateral, mu = (np.asarray(a, dtype=np.float64) for a in made["inference1"])
    alpha, beta, gamma = thetas
    filters = [
        ClassicLattice(dense_crf.positions(*unary.shape[1:]) / gamma),
        ClassicLattice(dense_crf.features(bgr[0].numpy(), alpha, beta)),
    ]
    ones = np.ones((unary[0].size, 1))
    u = unary.reshape(len(unary), -1).T
    x = u
    for _ in range(steps):
        q = dense_crf.softmax(x)
        spatial, bilateral = ((f @ q) / (f @ ones + 1e-20) for f in filters)
        x = u - (spatial @ w_spatial.T + bilateral @ w_bilateral.T) @ mu.T
    return torch.from_numpy(x.T.reshape(unary.shape))[None]


# The wire format of protocol buffers, written.


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def tagged(number: int, content: bytes | int) -> bytes:
    """A field: an integer, or bytes with their length."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(array: Array, *, legacy: bool, packed: bool = True, double: bool = False) -> bytes:
    if legacy:  # num, channels, height, width; vectors lie in the last one
        size = (1,) * (4 - array.ndim) + array.shape
        head = b"".join(tagged(i + 1, n) for i, n in enumerate(size))
    else:
        head = tagged(7, tagged(1, b"".join(map(varint, array.shape))))
    if double:
        return head + tagged(8, array.astype("<f8").tobytes())
    if packed:
        return head + tagged(5, array.astype("<f4").tobytes())
    return head + b"".join(varint(5 << 3 | 5) + struct.pack("<f", v) for v in array.flatten())


def caffemodel(path: Path, made: Mapping[str, Sequence[Array]], *, v1: bool = True, **how: bool) -> Path:
    """NetParameter: layers = 2 (V1: name 4, type 5, blobs 6) or layer = 100 (name 1, type 2, blobs 7)."""
    out = tagged(1, b"TVG_CRFRNN_COCO_VOC")
    for name, arrays in made.items():
        blobs = [blob(a, legacy=v1, **how) for a in arrays]
        if v1:
            layer = tagged(2, b"bottom") + tagged(4, name.encode()) + tagged(5, 4)
            out += tagged(2, layer + b"".join(tagged(6, b) for b in blobs))
        else:
            layer = tagged(1, name.encode()) + tagged(2, b"Convolution")
            out += tagged(100, layer + b"".join(tagged(7, b) for b in blobs))
    path.write_bytes(out)
    return path


def keras_arrays(made: Mapping[str, Sequence[Array]]) -> dict[str, Array]:
    """By dataset: kernels (h, w, in, out), of transposed convolutions (h, w, out, in)."""
    arrays: dict[str, Array] = {}
    for name, (kernel, *bias) in made.items():
        if name == "inference1":
            continue
        arrays[f"{name}/{name}/kernel:0"] = np.transpose(kernel, (2, 3, 1, 0))
        if bias:
            arrays[f"{name}/{name}/bias:0"] = bias[0]
    names = ("spatial_ker_weights", "bilateral_ker_weights", "compatibility_matrix")
    for name, matrix in zip(names, made["inference1"], strict=True):
        arrays[f"crfrnn/crfrnn/{name}:0"] = matrix
    return arrays


PORT = {
    "score-fr": "score_fr", "score-pool4": "score_pool4", "score-pool3": "score_pool3",
    "score2": "upscore2", "score4": "upscore_pool4", "upsample": "upscore8",
}  # fmt: skip


def port_state(made: Mapping[str, Sequence[Array]]) -> dict[str, Tensor]:
    """The PyTorch port adds its message, so that the same system has minus the Mu."""
    state: dict[str, Tensor] = {}
    for name, (kernel, *rest) in made.items():
        if name == "inference1":
            state["crfrnn.spatial_ker_weights"] = torch.from_numpy(kernel)
            state["crfrnn.bilateral_ker_weights"] = torch.from_numpy(rest[0])
            state["crfrnn.compatibility_matrix"] = -torch.from_numpy(rest[1])
            continue
        state[f"{PORT.get(name, name)}.weight"] = torch.from_numpy(kernel)
        if rest:
            state[f"{PORT.get(name, name)}.bias"] = torch.from_numpy(rest[0])
    return state


def vgg_state(widths: Sequence[int] = WIDTHS, hidden: int = HIDDEN) -> dict[str, Tensor]:
    """torchvision's names by its own layout: convolution, ReLU, …, pool; then the classifier."""
    state: dict[str, Tensor] = {}

    def layer(name: str, *shape: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.randn(shape), torch.randn(shape[0])

    before, position = 3, 0
    for width, depth in zip(widths, DEPTHS, strict=True):
        for _ in range(depth):
            layer(f"features.{position}", width, before, 3, 3)
            before, position = width, position + 2
        position += 1
    layer("classifier.0", hidden, before * 49)
    layer("classifier.3", hidden, hidden)
    layer("classifier.6", 10, hidden)
    return state
