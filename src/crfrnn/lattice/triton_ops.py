# SPDX-License-Identifier: MIT
"""The GPU lattice as torch operators: schemas, implementations, fakes, gradients.

Sizes of a structure come from the data, so `torch.compile(fullgraph=True)` over the build wants
`torch._dynamo.config.capture_dynamic_output_shape_ops`; without it the graph breaks there and goes on after.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crfrnn.lattice import triton_build, triton_filter
from crfrnn.lattice.triton_filter import Structure

_library = torch.library.Library("crfrnn", "FRAGMENT")
_STRUCTURE = "Tensor corner, Tensor rank, Tensor neighbour, Tensor order, Tensor[] bounds"
_library.define(
    "triton_lattice_build(Tensor features, Tensor? mask, float scale, int rings, int ring_support)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_library.define(f"triton_lattice_filter(Tensor values, Tensor weights, {_STRUCTURE}, bool reverse) -> Tensor")
_library.define(f"triton_lattice_weight_gradient(Tensor x, Tensor g, Tensor weights, {_STRUCTURE}) -> Tensor")
_library.define("triton_lattice_feature_gradient(Tensor grad_weights, Tensor rank, float scale) -> Tensor")


# Implementations


def _build(
    features: Tensor, mask: Tensor | None, scale: float, rings: int, ring_support: int
) -> tuple[Tensor, ...]:
    return triton_build.build(features.detach(), mask, scale, rings, ring_support)


def _filter(values, weights, corner, rank, neighbour, order, bounds, reverse):
    structure = Structure.of((corner, rank, neighbour, order, *bounds))
    return triton_filter.filter(values, weights, structure, reverse)


def _weight_gradient(x, g, weights, corner, rank, neighbour, order, bounds):
    structure = Structure.of((corner, rank, neighbour, order, *bounds))
    return triton_filter.weight_gradient(x, g, weights, structure)


for _name, _function in (
    ("build", _build),
    ("filter", _filter),
    ("weight_gradient", _weight_gradient),
    ("feature_gradient", triton_build.feature_gradient),
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
def _(values, weights, corner, rank, neighbour, order, bounds, reverse):
    return values.new_empty(values.shape, dtype=weights.dtype)


@torch.library.register_fake("crfrnn::triton_lattice_weight_gradient")
def _(x, g, weights, corner, rank, neighbour, order, bounds):
    return weights.new_empty(weights.shape)


@torch.library.register_fake("crfrnn::triton_lattice_feature_gradient")
def _(grad_weights, rank, scale):
    return grad_weights.new_empty(rank.shape[0], rank.shape[1] - 1)


# Gradients: those of crfrnn.lattice.ops.


def _keep_build(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.shape, ctx.scale = inputs[0].shape, inputs[2]
    ctx.save_for_backward(output[2], inputs[1])
    ctx.mark_non_differentiable(*output[1:])


def _build_backward(ctx: Any, grad_weights: Tensor, *_: Any) -> tuple[Any, ...]:
    rank, mask = ctx.saved_tensors
    if mask is not None:
        grad_weights = grad_weights.masked_fill(~mask.reshape(-1, 1), 0)
    gradient = torch.ops.crfrnn.triton_lattice_feature_gradient(grad_weights, rank, ctx.scale)
    return gradient.view(ctx.shape), *([None] * 4)


def _keep_filter(ctx: Any, inputs: Any, output: Any) -> None:
    values, weights, corner, rank, neighbour, order, bounds, ctx.reverse = inputs
    ctx.kind = values.dtype
    kept = values if ctx.needs_input_grad[1] else None
    ctx.save_for_backward(kept, weights, corner, rank, neighbour, order, *bounds)


def _filter_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    values, weights, corner, rank, neighbour, order, *bounds = ctx.saved_tensors
    structure = (corner, rank, neighbour, order, bounds)
    grad_values = grad_weights = None
    if ctx.needs_input_grad[0]:
        grad_values = torch.ops.crfrnn.triton_lattice_filter(grad, weights, *structure, not ctx.reverse)
        grad_values = grad_values.to(ctx.kind)
    if ctx.needs_input_grad[1]:
        x, g = (grad, values) if ctx.reverse else (values, grad)
        grad_weights = torch.ops.crfrnn.triton_lattice_weight_gradient(x, g, weights, *structure)
    return grad_values, grad_weights, None, None, None, None, [None] * len(bounds), None


torch.library.register_autograd(
    "crfrnn::triton_lattice_build", _build_backward, setup_context=_keep_build, lib=_library
)
torch.library.register_autograd(
    "crfrnn::triton_lattice_filter", _filter_backward, setup_context=_keep_filter, lib=_library
)
