# SPDX-License-Identifier: MIT
"""The GPU lattice as torch operators: schemas, implementations, fakes, gradients, batching rules.

Sizes of a structure come from the data, so `torch.compile(fullgraph=True)` over the build wants
`torch._dynamo.config.capture_dynamic_output_shape_ops`; without it the graph breaks there and goes on after.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crfrnn.lattice import triton_build, triton_filter
from crfrnn.lattice.triton_filter import Structure
from crfrnn.lattice.triton_launch import front

_library = torch.library.Library("crfrnn", "FRAGMENT")
_STRUCTURE = "Tensor corner, Tensor rank, Tensor neighbour, Tensor order, Tensor[] bounds"
_library.define(
    "triton_lattice_build(Tensor features, Tensor? mask, float scale, int rings, int ring_support)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_library.define(f"triton_lattice_filter(Tensor values, Tensor weights, {_STRUCTURE}, bool reverse) -> Tensor")
_library.define(f"triton_lattice_weight_gradient(Tensor x, Tensor g, Tensor weights, {_STRUCTURE}) -> Tensor")
_library.define(
    "triton_lattice_feature_gradient(Tensor grad_weights, Tensor rank, Tensor features, float scale)"
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


def _filter(values, weights, corner, rank, neighbour, order, bounds, reverse):
    structure = Structure.of((corner, rank, neighbour, order, *bounds))
    return triton_filter.filter(values, weights, structure, reverse)


def _weight_gradient(x, g, weights, corner, rank, neighbour, order, bounds):
    structure = Structure.of((corner, rank, neighbour, order, *bounds))
    return triton_filter.weight_gradient(x, g, weights, structure)


def _feature_gradient(grad_weights: Tensor, rank: Tensor, features: Tensor, scale: float) -> Tensor:
    return triton_build.feature_gradient(grad_weights, rank, scale).view(features.shape)


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
def _(values, weights, corner, rank, neighbour, order, bounds, reverse):
    return values.new_empty(values.shape, dtype=weights.dtype)


@torch.library.register_fake("crfrnn::triton_lattice_weight_gradient")
def _(x, g, weights, corner, rank, neighbour, order, bounds):
    return weights.new_empty(weights.shape)


@torch.library.register_fake("crfrnn::triton_lattice_feature_gradient")
def _(grad_weights, rank, features, scale):
    return grad_weights.new_empty(features.shape)


# Gradients: those of crfrnn.lattice.ops.


def _keep_build(ctx: Any, inputs: Any, output: Any) -> None:
    features, mask, ctx.scale = inputs[:3]
    ctx.save_for_backward(output[2], mask, features)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # or zeros as large as the tables would come back with them


def _build_backward(ctx: Any, grad_weights: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if grad_weights is None:
        return (None,) * 5
    rank, mask, features = ctx.saved_tensors
    gradient = torch.ops.crfrnn.triton_lattice_feature_gradient(grad_weights, rank, features, ctx.scale)
    if mask is not None:
        gradient = torch.where(mask.unsqueeze(-1), gradient, 0)
    return gradient, *([None] * 4)


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


# Batching, as in crfrnn.lattice.ops: under vmap all samples share one lattice, pictures of one batch.


def _build_batched(info, in_dims, features, mask, *options):
    features = front(features, in_dims[0], info.batch_size).flatten(0, 1)
    if mask is not None:
        mask = front(mask, in_dims[1], info.batch_size).flatten(0, 1)
    return torch.ops.crfrnn.triton_lattice_build(features, mask, *options), (None,) * 8


def _filter_batched(info, in_dims, values, weights, corner, rank, neighbour, order, bounds, reverse):
    if any(d is not None for d in in_dims[1:6]):
        raise ValueError("lattice: vmap over lattices needs them built inside the mapped function")
    structure = (weights, corner, rank, neighbour, order, bounds)
    values = front(values, in_dims[0], info.batch_size)
    if len(corner) == values.shape[0] * values.shape[1]:  # built inside: the samples are its pictures
        out = torch.ops.crfrnn.triton_lattice_filter(values.flatten(0, 1), *structure, reverse)
        return out.view(values.shape), 0
    samples, points, channels = values.shape  # built outside: the samples are more channels
    joined = values.transpose(0, 1).flatten(1)
    out = torch.ops.crfrnn.triton_lattice_filter(joined, *structure, reverse)
    return out.view(points, samples, channels), 1


def _weight_gradient_batched(info, in_dims, x, g, weights, corner, rank, neighbour, order, bounds):
    structure = (weights, corner, rank, neighbour, order, bounds)
    x, g = (front(t, d, info.batch_size) for t, d in ((x, in_dims[0]), (g, in_dims[1])))
    gradient = torch.ops.crfrnn.triton_lattice_weight_gradient
    if len(corner) == x.shape[0] * x.shape[1]:
        return gradient(x.flatten(0, 1), g.flatten(0, 1), *structure), None
    return torch.stack([gradient(a, b, *structure) for a, b in zip(x, g, strict=True)]), 0


def _feature_gradient_batched(info, in_dims, grad_weights, rank, features, scale):
    gradient = torch.ops.crfrnn.triton_lattice_feature_gradient
    features = front(features, in_dims[2], info.batch_size)
    if in_dims[0] is None:  # built inside
        return gradient(grad_weights, rank, features.flatten(0, 1), scale).view(features.shape), 0
    grads = front(grad_weights, in_dims[0], info.batch_size)
    return torch.stack([gradient(g, rank, f, scale) for g, f in zip(grads, features, strict=True)]), 0


for _name, _rule in (
    ("build", _build_batched),
    ("filter", _filter_batched),
    ("weight_gradient", _weight_gradient_batched),
    ("feature_gradient", _feature_gradient_batched),
):
    torch.library.register_vmap(f"crfrnn::triton_lattice_{_name}", _rule, lib=_library)
