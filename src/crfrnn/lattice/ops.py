# SPDX-License-Identifier: MIT
"""The compiled lattice as torch operators: schemas, implementations, fakes, gradients, batching rules.

A structure is one int32 table (native/lattice.hpp). It and the barycentric weights keep the points in the
lattice's own order; values come and go in the caller's. Under `torch.compile` the table is padded to a size
that the shapes alone give.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crfrnn import _native

_library = torch.library.Library("crfrnn", "DEF")

_library.define(
    "lattice_build(Tensor features, Tensor? mask, float scale, int rings, int ring_support, bool padded)"
    " -> (Tensor, Tensor)"
)
_library.define("lattice_filter(Tensor values, Tensor weights, Tensor table, bool reverse) -> Tensor")
_library.define("lattice_weight_gradient(Tensor x, Tensor g, Tensor weights, Tensor table) -> Tensor")
_library.define("lattice_feature_gradient(Tensor grad_weights, Tensor table, Tensor features) -> Tensor")


# Implementations


def _build(
    features: Tensor, mask: Tensor | None, scale: float, rings: int, ring_support: int, padded: bool
) -> tuple[Tensor, Tensor]:
    bits = None if mask is None else mask.to(torch.uint8).contiguous()
    threads = torch.get_num_threads()
    arrays = _native.build(features.contiguous(), bits, scale, rings, ring_support, threads)
    weights, table = (torch.from_numpy(array) for array in arrays)
    if padded:
        points, size = features.shape[0] * features.shape[1], features.shape[2]
        whole = weights.new_zeros(points, size + 1)
        whole[: len(weights)] = weights
        room = table.new_empty(_capacity(points, size, rings))
        room[: len(table)] = table
        weights, table = whole, room
    return weights, table


def _filter(values: Tensor, weights: Tensor, table: Tensor, reverse: bool) -> Tensor:
    values = values.contiguous()
    out = torch.empty_like(values)
    _native.filter(values, weights.contiguous(), table, reverse, torch.get_num_threads(), out)
    return out


def _weight_gradient(x: Tensor, g: Tensor, weights: Tensor, table: Tensor) -> Tensor:
    out = torch.zeros_like(weights)
    _native.weight_gradient(
        x.contiguous(), g.contiguous(), weights.contiguous(), table, torch.get_num_threads(), out
    )
    return out


def _feature_gradient(grad_weights: Tensor, table: Tensor, features: Tensor) -> Tensor:
    out = features.new_empty(features.shape)
    flat = out.view(-1, features.shape[-1])
    _native.feature_gradient(grad_weights.contiguous(), table, torch.get_num_threads(), flat)
    return out


for _name, _function in (
    ("lattice_build", _build),
    ("lattice_filter", _filter),
    ("lattice_weight_gradient", _weight_gradient),
    ("lattice_feature_gradient", _feature_gradient),
):
    _library.impl(_name, _function, "CPU")


# Fakes


def _capacity(points: Any, dimension: int, rings: int) -> Any:
    """Words of the largest table that these points can need: every corner a vertex of its own."""
    corners = dimension + 1
    simplex_words = 1 + corners + (corners + 3) // 4
    vertices = points * corners * (1 + 2 * corners) ** rings
    neighbours = 2 * corners * vertices + 2 * (dimension - 1) * vertices  # and the chains of them
    return 17 + points * (1 + simplex_words) + neighbours + 2 * (vertices + 1)


@torch.library.register_fake("crfrnn::lattice_build")
def _(features, mask, scale, rings, ring_support, padded):
    points, size = features.shape[0] * features.shape[1], features.shape[2]
    if padded:
        words = _capacity(points, size, rings)
    else:
        context = torch.library.get_ctx()
        words = context.new_dynamic_size(min=16)
        if mask is not None:
            points = context.new_dynamic_size(min=0)
    return features.new_empty(points, size + 1), features.new_empty(words, dtype=torch.int32)


@torch.library.register_fake("crfrnn::lattice_filter")
def _(values, weights, table, reverse):
    return torch.empty_like(values, memory_format=torch.contiguous_format)


@torch.library.register_fake("crfrnn::lattice_weight_gradient")
def _(x, g, weights, table):
    return torch.zeros_like(weights)


@torch.library.register_fake("crfrnn::lattice_feature_gradient")
def _(grad_weights, table, features):
    return features.new_empty(features.shape)


# Gradients: the filter is linear in its values, its adjoint is itself with the axes reversed.


def _keep_build(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(output[1], inputs[0])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # or zeros as large as the table would come back with it


def _build_backward(ctx: Any, grad_weights: Tensor | None, _: Any) -> tuple[Any, ...]:
    if grad_weights is None:
        return (None,) * 6
    table, features = ctx.saved_tensors
    return torch.ops.crfrnn.lattice_feature_gradient(grad_weights, table, features), *([None] * 5)


def _keep_filter(ctx: Any, inputs: Any, output: Any) -> None:
    values, weights, table, ctx.reverse = inputs
    ctx.save_for_backward(values if ctx.needs_input_grad[1] else None, weights, table)


def _filter_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    values, weights, table = ctx.saved_tensors
    ops = torch.ops.crfrnn
    grad_values = grad_weights = None
    if ctx.needs_input_grad[0]:
        grad_values = ops.lattice_filter(grad, weights, table, not ctx.reverse)
    if ctx.needs_input_grad[1]:
        x, g = (grad, values) if ctx.reverse else (values, grad)
        grad_weights = ops.lattice_weight_gradient(x, g, weights, table)
    return grad_values, grad_weights, None, None


torch.library.register_autograd(
    "crfrnn::lattice_build", _build_backward, setup_context=_keep_build, lib=_library
)
torch.library.register_autograd(
    "crfrnn::lattice_filter", _filter_backward, setup_context=_keep_filter, lib=_library
)


# Batching: under vmap all samples share one lattice, in which they are pictures of one batch.


def _front(tensor: Tensor, dimension: int | None, size: int) -> Tensor:
    return tensor.expand(size, *tensor.shape) if dimension is None else tensor.movedim(dimension, 0)


def _lattice_build_batched(info, in_dims, features, mask, scale, rings, ring_support, padded):
    features = _front(features, in_dims[0], info.batch_size).flatten(0, 1)
    if mask is not None:
        mask = _front(mask, in_dims[1], info.batch_size).flatten(0, 1)
    out = torch.ops.crfrnn.lattice_build(features, mask, scale, rings, ring_support, padded)
    return out, (None, None)


def _lattice_filter_batched(info, in_dims, values, weights, table, reverse):
    if in_dims[1] is not None or in_dims[2] is not None:
        raise ValueError("lattice: vmap over lattices needs them built inside the mapped function")
    values = _front(values, in_dims[0], info.batch_size)
    if int(table[8]) == values.shape[0] * values.shape[1]:  # built inside: the samples are its pictures
        out = torch.ops.crfrnn.lattice_filter(values.flatten(0, 1), weights, table, reverse)
        return out.view(values.shape), 0
    size, points, channels = values.shape  # built outside: the samples are more channels
    out = torch.ops.crfrnn.lattice_filter(values.transpose(0, 1).flatten(1), weights, table, reverse)
    return out.view(points, size, channels), 1


def _lattice_weight_gradient_batched(info, in_dims, x, g, weights, table):
    x, g = (_front(t, d, info.batch_size) for t, d in ((x, in_dims[0]), (g, in_dims[1])))
    if int(table[8]) == x.shape[0] * x.shape[1]:
        return torch.ops.crfrnn.lattice_weight_gradient(
            x.flatten(0, 1), g.flatten(0, 1), weights, table
        ), None
    each = [torch.ops.crfrnn.lattice_weight_gradient(a, b, weights, table) for a, b in zip(x, g, strict=True)]
    return torch.stack(each), 0


def _lattice_feature_gradient_batched(info, in_dims, grad_weights, table, features):
    if in_dims[0] is None and in_dims[2] is not None:
        features = _front(features, in_dims[2], info.batch_size)
        flat = torch.ops.crfrnn.lattice_feature_gradient(grad_weights, table, features.flatten(0, 1))
        return flat.view(features.shape), 0
    grads = _front(grad_weights, in_dims[0], info.batch_size)
    features = _front(features, in_dims[2], info.batch_size)
    each = [
        torch.ops.crfrnn.lattice_feature_gradient(g, table, f) for g, f in zip(grads, features, strict=True)
    ]
    return torch.stack(each), 0


for _name, _rule in (
    ("lattice_build", _lattice_build_batched),
    ("lattice_filter", _lattice_filter_batched),
    ("lattice_weight_gradient", _lattice_weight_gradient_batched),
    ("lattice_feature_gradient", _lattice_feature_gradient_batched),
):
    torch.library.register_vmap(f"crfrnn::{_name}", _rule, lib=_library)
