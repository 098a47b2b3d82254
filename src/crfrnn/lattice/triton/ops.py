# SPDX-License-Identifier: MIT
"""The GPU lattice as torch operators: schemas, implementations, fakes, gradients, batching rules.

Sizes of a structure come from the data, so `torch.compile(fullgraph=True)` over the build wants
`torch._dynamo.config.capture_dynamic_output_shape_ops`; without it the graph breaks there and goes on after.
"""

from __future__ import annotations

import torch
from torch import Tensor

from crfrnn.lattice.derivatives import Operators
from crfrnn.lattice.triton import build as triton_build
from crfrnn.lattice.triton import filter as triton_filter
from crfrnn.lattice.triton.filter import Structure

_library = torch.library.Library("crfrnn", "FRAGMENT")
_library.define(
    "triton_lattice_build(Tensor features, Tensor? mask, float scale, int rings, int ring_support)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
# What `triton_build.build` gives, bar the weights.
_STRUCTURE = ", ".join(
    f"Tensor {name}" for name in ("corner", "rank", "neighbour", "order", "first", "second", "third")
)
_library.define(f"triton_lattice_filter(Tensor values, Tensor weights, bool reverse, {_STRUCTURE}) -> Tensor")
_library.define(f"triton_lattice_weight_gradient(Tensor x, Tensor g, Tensor weights, {_STRUCTURE}) -> Tensor")
_library.define(
    f"triton_lattice_feature_gradient(Tensor grad_weights, Tensor features, float scale, {_STRUCTURE})"
    " -> Tensor"
)


# Implementations


def _build(
    features: Tensor, mask: Tensor | None, scale: float, rings: int, ring_support: int
) -> tuple[Tensor, ...]:
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        raise ValueError(
            "features: a lattice learns its size from the device, expected a stream that is not captured, "
            "got one that is; build kernels before torch.cuda.graph(...) and capture mean_field alone"
        )
    return triton_build.build(features.detach(), mask, scale, rings, ring_support)


def _filter(values: Tensor, weights: Tensor, reverse: bool, *structure: Tensor) -> Tensor:
    return triton_filter.filter(values, weights, Structure.of(structure), reverse)


def _weight_gradient(x: Tensor, g: Tensor, weights: Tensor, *structure: Tensor) -> Tensor:
    return triton_filter.weight_gradient(x, g, weights, Structure.of(structure))


def _feature_gradient(grad_weights: Tensor, features: Tensor, scale: float, *structure: Tensor) -> Tensor:
    return triton_build.feature_gradient(grad_weights, structure[1], scale).view(features.shape)


for _name, _function in (
    ("build", _build),
    ("filter", _filter),
    ("weight_gradient", _weight_gradient),
    ("feature_gradient", _feature_gradient),
):
    # One for every device: the interpreter works on the CPU.
    _library.impl(f"triton_lattice_{_name}", _function, "CompositeExplicitAutograd")


# Fakes


@torch.library.register_fake("crfrnn::triton_lattice_build")
def _(features, mask, scale, rings, ring_support):
    context = torch.library.get_ctx()
    points, size = features.shape[0] * features.shape[1], features.shape[2] + 1
    entries = points * size
    if mask is not None:
        entries = context.new_dynamic_size(min=0)
    vertices = context.new_dynamic_size(min=1)
    bounds = [features.new_empty(context.new_dynamic_size(min=0), dtype=torch.int64) for _ in range(3)]
    index = torch.int32 if points * size * (1 + 2 * size) ** rings < 2**31 else torch.int64
    return (
        features.new_empty(points, size),
        features.new_empty(points, size, dtype=index),
        features.new_empty(points, size, dtype=torch.int8),
        features.new_empty(size, 2, vertices, dtype=index),
        features.new_empty(entries, dtype=index),
        *bounds,
    )


@torch.library.register_fake("crfrnn::triton_lattice_filter")
def _(values, weights, reverse, *structure):
    return values.new_empty(values.shape, dtype=weights.dtype)


@torch.library.register_fake("crfrnn::triton_lattice_weight_gradient")
def _(x, g, weights, *structure):
    return weights.new_empty(weights.shape)


@torch.library.register_fake("crfrnn::triton_lattice_feature_gradient")
def _(grad_weights, features, scale, *structure):
    return grad_weights.new_empty(features.shape)


# Derivatives and batching rules

operators = Operators("triton_", lambda structure: (structure[1].long(), None))
operators.register(_library)
