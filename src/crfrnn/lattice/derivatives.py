# SPDX-License-Identifier: MIT
"""Derivatives of any order of a lattice's operators, in reverse and forward mode, and their batching rules.

With the barycentric weights w fixed, a filter F(v; w) = S_w B S_wᵀ v is linear in the values v, so its
derivative and its adjoint are filters again. It is quadratic in w, so with the bilinear form

    D(v; w, h) = ½ (F(v; w + h) - F(v; w - h)),   the derivative of F in the direction h,

and the weight gradient W(x, g, w), which is defined by <h, W(x, g, w)> = <g, D(x; w, h)>, every further
derivative is one of these three again. The weights are piecewise linear in the features: the gradient of the
features and the tangent of the weights are adjoint linear maps that depend on the simplices alone.

Each rule is written once here, for every backend. `torch.autograd.Function` carries them, because operators
registered with torch.library know neither forward mode nor torch.func; under `torch.compile`, which cannot
trace such functions, the registered operators run with the first of the same rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from crfrnn.lattice import reference
from crfrnn.lattice.samples import Structure, common, front, of_all
from crfrnn.lattice.validate import refuse_forward_over_forward


@dataclass(frozen=True, eq=False)
class Operators:
    """A backend's operators as functions that can be differentiated any number of times.

    The operators `crfrnn::{prefix}lattice_{name}` are called with

    build(features, mask, *options) -> (weights, *structure)
    filter(values, weights, reverse, *structure) -> values
    weight_gradient(x, g, weights, *structure) -> weights
    feature_gradient(grad_weights, features, scale, *structure) -> features, whose shape they give
    """

    prefix: str
    ranks: Callable[[Structure], tuple[Tensor, Tensor | None]]
    """Rank of each coordinate's remainder, Int[P, d+1], and the point of each row (None: its own number)."""

    def operator(self, name: str) -> Any:
        return getattr(torch.ops.crfrnn, f"{self.prefix}lattice_{name}")

    def build(self, features: Tensor, mask: Tensor | None, scale: float, *options: Any) -> Structure:
        if torch.compiler.is_compiling():
            return self.operator("build")(features, mask, scale, *options)
        refuse_forward_over_forward()
        return Build.apply(self, features, mask, scale, *options)  # pyright: ignore[reportReturnType]

    def filter(self, values: Tensor, weights: Tensor, reverse: bool, structure: Sequence[Tensor]) -> Tensor:
        if torch.compiler.is_compiling():
            return self.operator("filter")(values, weights, reverse, *structure)
        refuse_forward_over_forward()
        return Filter.apply(self, values, weights, reverse, *structure)  # pyright: ignore[reportReturnType]

    def filter_tangent(
        self, values: Tensor, weights: Tensor, step: Tensor, reverse: bool, structure: Sequence[Tensor]
    ) -> Tensor:
        """D(v; w, h) with h = `step`."""
        # D is linear in h: a step as long as the weights loses no digits in the difference.
        with torch.no_grad():  # whatever the length, D is the same
            size = torch.linalg.vector_norm(step)
            length = torch.where(size > 0, torch.linalg.vector_norm(weights) / size, 1)
        step = length * step
        ahead, behind = (self.filter(values, w, reverse, structure) for w in (weights + step, weights - step))
        return (ahead - behind) / (2 * length)

    def weight_gradient(self, x: Tensor, g: Tensor, weights: Tensor, structure: Sequence[Tensor]) -> Tensor:
        if torch.compiler.is_compiling():
            return self.operator("weight_gradient")(x, g, weights, *structure)
        return WeightGradient.apply(self, x, g, weights, *structure)  # pyright: ignore[reportReturnType]

    def feature_gradient(
        self, grad_weights: Tensor, features: Tensor, scale: float, structure: Sequence[Tensor]
    ) -> Tensor:
        if torch.compiler.is_compiling():
            return self.operator("feature_gradient")(grad_weights, features, scale, *structure)
        return FeatureGradient.apply(self, grad_weights, features, scale, *structure)  # pyright: ignore[reportReturnType]

    def weight_tangent(self, step: Tensor, scale: float, structure: Sequence[Tensor]) -> Tensor:
        """What a step of the features, Float[B, N, d], moves the weights by."""
        return WeightTangent.apply(self, step, scale, *structure)  # pyright: ignore[reportReturnType]

    def register(self, library: torch.library.Library) -> None:
        """First gradients and batching rules of the registered operators, for torch.compile."""
        for name, rules in (("build", Build), ("filter", Filter)):
            torch.library.register_autograd(
                f"crfrnn::{self.prefix}lattice_{name}",
                lambda ctx, *grads, rules=rules: rules.backward(ctx, *grads)[1:],
                setup_context=lambda ctx, inputs, output, rules=rules: rules.setup_context(
                    ctx, (self, *inputs), output
                ),
                lib=library,
            )
        for name, rules in (
            ("build", Build),
            ("filter", Filter),
            ("weight_gradient", WeightGradient),
            ("feature_gradient", FeatureGradient),
        ):
            torch.library.register_vmap(
                f"crfrnn::{self.prefix}lattice_{name}",
                lambda info, in_dims, *inputs, rules=rules: rules.vmap(info, (None, *in_dims), self, *inputs),
                lib=library,
            )


def _none_or(tensor: Tensor | None, function: Callable[[Tensor], Tensor]) -> Tensor | None:
    return None if tensor is None else function(tensor)


def _sum(*terms: Tensor | None) -> Tensor | None:
    """Of those that are there."""
    there = [term for term in terms if term is not None]
    return sum(there[1:], there[0]) if there else None


class Build(Function):
    """Features to weights and structure; the structure is constant between the simplices' boundaries."""

    @staticmethod
    def forward(ops: Operators, features: Tensor, mask: Tensor | None, *options: Any) -> Structure:
        return tuple(ops.operator("build")(features, mask, *options))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Structure) -> None:
        ctx.ops, features, mask, ctx.scale, *options = inputs
        ctx.options = len(options)
        ctx.save_for_backward(mask, features, *output[1:])
        ctx.save_for_forward(mask, *output[1:])
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # or zeros as large as the tables would come back with them

    @staticmethod
    def backward(ctx: Any, grad_weights: Tensor | None, *_: Any) -> tuple[Any, ...]:
        none = (None,) * ctx.options
        if grad_weights is None:
            return None, None, None, None, *none
        mask, features, *structure = ctx.saved_tensors
        gradient = ctx.ops.feature_gradient(grad_weights, features, ctx.scale, structure)
        if mask is not None:
            gradient = torch.where(mask.unsqueeze(-1), gradient, 0)
        return None, gradient, None, None, *none

    @staticmethod
    def jvp(ctx: Any, _: Any, step: Tensor | None, *__: Any) -> tuple[Any, ...]:
        mask, *structure = ctx.saved_tensors
        if step is not None and mask is not None:
            step = torch.where(mask.unsqueeze(-1), step, 0)
        moved = _none_or(step, lambda s: ctx.ops.weight_tangent(s, ctx.scale, structure))
        return moved, *([None] * len(structure))

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, ops: Operators, features: Tensor, mask: Tensor | None, *options: Any
    ) -> Any:
        """All samples share one lattice, in which they are pictures of one batch.

        The structure repeats for each sample, without a copy. By this a filter knows on which of nested
        levels its lattice was built, and that values which all samples share have to meet each picture.
        """
        size = info.batch_size
        features = front(features, in_dims[1], size).flatten(0, 1)
        if mask is not None:
            mask = front(mask, in_dims[2], size).flatten(0, 1)
        weights, *structure = ops.build(features, mask, *options)
        structure = [t.expand(size, *t.shape) for t in structure]
        return (weights, *structure), (None, *[0] * len(structure))


class Filter(Function):
    """F(v; w), or its adjoint with `reverse`."""

    @staticmethod
    def forward(ops: Operators, values: Tensor, weights: Tensor, reverse: bool, *structure: Tensor) -> Tensor:
        return ops.operator("filter")(values, weights, reverse, *structure)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.ops, values, weights, ctx.reverse, *structure = inputs
        ctx.wanted = values.requires_grad, weights.requires_grad
        ctx.save_for_backward(values if weights.requires_grad else None, weights, *structure)
        ctx.save_for_forward(values, weights, *structure)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        values, weights, *structure = ctx.saved_tensors
        to_values = to_weights = None
        if ctx.wanted[0]:
            to_values = ctx.ops.filter(grad, weights, not ctx.reverse, structure)
        if ctx.wanted[1]:
            x, g = (grad, values) if ctx.reverse else (values, grad)
            to_weights = ctx.ops.weight_gradient(x, g, weights, structure)
        return None, to_values, to_weights, None, *([None] * len(structure))

    @staticmethod
    def jvp(
        ctx: Any, _: Any, values_step: Tensor | None, weights_step: Tensor | None, *__: Any
    ) -> Tensor | None:
        values, weights, *structure = ctx.saved_tensors
        ops, reverse = ctx.ops, ctx.reverse
        return _sum(
            _none_or(values_step, lambda step: ops.filter(step, weights, reverse, structure)),
            _none_or(
                weights_step, lambda step: ops.filter_tangent(values, weights, step, reverse, structure)
            ),
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, ops: Operators, values: Tensor, weights: Tensor, reverse: bool,
             *structure: Tensor) -> tuple[Tensor, int]:  # fmt: skip
        size, joint = info.batch_size, of_all(in_dims[4:], structure)
        values = front(values, in_dims[1], size)
        if joint is not None:  # built inside: the samples are its pictures
            weights = common(weights, in_dims[2])
            return ops.filter(values.flatten(0, 1), weights, reverse, joint).view(values.shape), 0
        if in_dims[2] is not None:  # one lattice, but weights that each sample moves by itself
            each = zip(values, front(weights, in_dims[2], size), strict=True)
            return torch.stack([ops.filter(v, w, reverse, structure) for v, w in each]), 0
        size, points, channels = values.shape  # built outside: the samples are more channels
        joined = values.transpose(0, 1).flatten(1)
        return ops.filter(joined, weights, reverse, structure).view(points, size, channels), 1


class WeightGradient(Function):
    """W(x, g, w), linear in each of the three."""

    @staticmethod
    def forward(ops: Operators, x: Tensor, g: Tensor, weights: Tensor, *structure: Tensor) -> Tensor:
        return ops.operator("weight_gradient")(x, g, weights, *structure)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.ops, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, step: Tensor) -> tuple[Any, ...]:
        x, g, weights, *structure = ctx.saved_tensors
        ops, (_, to_x, to_g, to_weights, *_) = ctx.ops, ctx.needs_input_grad
        return (
            None,
            ops.filter_tangent(g, weights, step, True, structure) if to_x else None,
            ops.filter_tangent(x, weights, step, False, structure) if to_g else None,
            ops.weight_gradient(x, g, step, structure) if to_weights else None,
            *([None] * len(structure)),
        )

    @staticmethod
    def jvp(ctx: Any, _: Any, x_step: Any, g_step: Any, weights_step: Any, *__: Any) -> Tensor | None:
        x, g, weights, *structure = ctx.saved_tensors
        gradient = ctx.ops.weight_gradient
        return _sum(
            _none_or(x_step, lambda step: gradient(step, g, weights, structure)),
            _none_or(g_step, lambda step: gradient(x, step, weights, structure)),
            _none_or(weights_step, lambda step: gradient(x, g, step, structure)),
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, ops: Operators, x: Tensor, g: Tensor, weights: Tensor,
             *structure: Tensor) -> tuple[Tensor, int | None]:  # fmt: skip
        size, joint = info.batch_size, of_all(in_dims[4:], structure)
        x, g = front(x, in_dims[1], size), front(g, in_dims[2], size)
        if joint is not None:
            weights = common(weights, in_dims[3])
            return ops.weight_gradient(x.flatten(0, 1), g.flatten(0, 1), weights, joint), None
        each = zip(x, g, front(weights, in_dims[3], size), strict=True)
        return torch.stack([ops.weight_gradient(a, b, w, structure) for a, b, w in each]), 0


class FeatureGradient(Function):
    """The gradient of the features, linear in that of the weights; features give their shape."""

    @staticmethod
    def forward(
        ops: Operators, grad_weights: Tensor, features: Tensor, scale: float, *structure: Tensor
    ) -> Tensor:
        return ops.operator("feature_gradient")(grad_weights, features, scale, *structure)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.ops, _, features, ctx.scale, *structure = inputs
        ctx.save_for_backward(*structure)
        ctx.save_for_forward(features, *structure)

    @staticmethod
    def backward(ctx: Any, step: Tensor) -> tuple[Any, ...]:
        structure = ctx.saved_tensors
        moved = ctx.ops.weight_tangent(step, ctx.scale, structure)
        return None, moved, None, None, *([None] * len(structure))

    @staticmethod
    def jvp(ctx: Any, _: Any, step: Tensor | None, *__: Any) -> Tensor | None:
        features, *structure = ctx.saved_tensors
        return _none_or(step, lambda s: ctx.ops.feature_gradient(s, features, ctx.scale, structure))

    @staticmethod
    def vmap(info: Any, in_dims: Any, ops: Operators, grad_weights: Tensor, features: Tensor, scale: float,
             *structure: Tensor) -> tuple[Tensor, int]:  # fmt: skip
        size, joint = info.batch_size, of_all(in_dims[4:], structure)
        features = front(features, in_dims[2], size)
        if joint is not None:
            grad_weights = common(grad_weights, in_dims[1])
            flat = ops.feature_gradient(grad_weights, features.flatten(0, 1), scale, joint)
            return flat.view(features.shape), 0
        each = zip(front(grad_weights, in_dims[1], size), features, strict=True)
        return torch.stack([ops.feature_gradient(g, f, scale, structure) for g, f in each]), 0


class WeightTangent(Function):
    """The adjoint of `FeatureGradient`."""

    @staticmethod
    def forward(ops: Operators, step: Tensor, scale: float, *structure: Tensor) -> Tensor:
        rank, point = ops.ranks(structure)
        rows = step.reshape(-1, step.shape[-1])
        return reference.barycentric_tangent(scale * (rows if point is None else rows[point]), rank)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.ops, step, ctx.scale, *structure = inputs
        ctx.save_for_backward(step, *structure)
        ctx.save_for_forward(*structure)

    @staticmethod
    def backward(ctx: Any, grad_weights: Tensor) -> tuple[Any, ...]:
        step, *structure = ctx.saved_tensors
        gradient = ctx.ops.feature_gradient(grad_weights, step, ctx.scale, structure)
        return None, gradient, None, *([None] * len(structure))

    @staticmethod
    def jvp(ctx: Any, _: Any, step: Tensor | None, *__: Any) -> Tensor | None:
        return _none_or(step, lambda s: ctx.ops.weight_tangent(s, ctx.scale, ctx.saved_tensors))

    @staticmethod
    def vmap(info: Any, in_dims: Any, ops: Operators, step: Tensor, scale: float,
             *structure: Tensor) -> tuple[Tensor, int | None]:  # fmt: skip
        step, joint = front(step, in_dims[1], info.batch_size), of_all(in_dims[3:], structure)
        if joint is not None:
            return ops.weight_tangent(step.flatten(0, 1), scale, joint), None
        return torch.stack([ops.weight_tangent(s, scale, structure) for s in step]), 0
