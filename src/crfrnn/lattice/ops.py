# SPDX-License-Identifier: MIT
"""The operators of a lattice, shared by all backends: schemas, fakes, derivatives and batching rules.

With the barycentric weights w fixed, a filter F(v; w) = S_w B S_wᵀ v is linear in the values v, so its
derivative and its adjoint are filters again. It is quadratic in w, so with the bilinear form

    D(v; w, h) = ½ (F(v; w + h) - F(v; w - h)),   the derivative of F in the direction h,

and the weight gradient W(x, g, w), defined by <h, W(x, g, w)> = <g, D(x; w, h)>, all higher derivatives can
be written with these three maps. The weights are piecewise linear in the features: the gradient of the
features and the tangent of the weights are adjoint linear maps that depend only on the simplices.

The rules are implemented as `torch.autograd.Function`, because operators registered with torch.library
support neither forward mode nor torch.func. torch.compile cannot trace such functions, so it uses the
registered operators, with the first derivatives and the batching rules of the same functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function

from crfrnn.lattice import reference
from crfrnn.lattice.backend import Compiled, find
from crfrnn.lattice.samples import Structure, common, front, of_all
from crfrnn.lattice.validate import refuse_forward_over_forward

# A structure is passed as one to seven tensors instead of a list: torch's older vmap (is_grads_batched)
# rejects operators that take lists.
_STRUCTURE = ", ".join(["Tensor structure", *(f"Tensor? structure{place}=None" for place in range(2, 8))])
_BUILD = "Tensor features, Tensor? mask, float scale, int rings, int ring_support, int together, bool padded"
SCHEMAS = {
    "build": f"(str backend, {_BUILD}) -> Tensor[]",
    "filter": f"(str backend, Tensor values, Tensor weights, bool reverse, {_STRUCTURE}) -> Tensor",
    "weight_gradient": f"(str backend, Tensor x, Tensor g, Tensor weights, {_STRUCTURE}) -> Tensor",
    "feature_gradient": f"(str backend, Tensor grad_weights, Tensor features, float scale, {_STRUCTURE})"
    " -> Tensor",
}


# Functions that can be differentiated any number of times; their arguments are those of the operators.


def build(backend: str, features: Tensor, mask: Tensor | None, *options: Any) -> Structure:
    """Float[B, N, d] -> (weights, *structure) of the backend; options as in `SCHEMAS`."""
    # While compiling, sizes depend only on the shapes, if the backend supports this.
    return _run("build", Build, backend, features, mask, *options, torch.compiler.is_compiling())


def filter(backend: str, values: Tensor, weights: Tensor, reverse: bool, *structure: Tensor) -> Tensor:
    """F(v; w), or its adjoint with `reverse`: Float[B·N, C] -> Float[B·N, C]."""
    return _run("filter", Filter, backend, values, weights, reverse, *structure)


def filter_tangent(
    backend: str, values: Tensor, weights: Tensor, step: Tensor, reverse: bool, *structure: Tensor
) -> Tensor:
    """D(v; w, h) with h = `step`."""
    # D is linear in h: scaling the step to the size of the weights avoids cancellation in the difference.
    with torch.no_grad():  # D does not depend on the scale
        size = torch.linalg.vector_norm(step)
        length = torch.where(size > 0, torch.linalg.vector_norm(weights) / size, 1)
    step = length * step
    ahead, behind = (
        filter(backend, values, w, reverse, *structure) for w in (weights + step, weights - step)
    )
    return (ahead - behind) / (2 * length)


def weight_gradient(backend: str, x: Tensor, g: Tensor, weights: Tensor, *structure: Tensor) -> Tensor:
    """W(x, g, w), of the shape of the weights."""
    return _run("weight_gradient", WeightGradient, backend, x, g, weights, *structure)


def feature_gradient(
    backend: str, grad_weights: Tensor, features: Tensor, scale: float, *structure: Tensor
) -> Tensor:
    """The gradient of the features from that of the weights; only the features' shape is used."""
    return _run("feature_gradient", FeatureGradient, backend, grad_weights, features, scale, *structure)


def weight_tangent(backend: str, step: Tensor, scale: float, *structure: Tensor) -> Tensor:
    """The change of the weights for a step of the features, Float[B, N, d]."""
    return WeightTangent.apply(backend, step, scale, *structure)  # pyright: ignore[reportReturnType]


def _run(name: str, rules: type[Function], backend: str, *arguments: Any) -> Any:
    implementation = find(backend)
    if implementation.differentiable:
        return getattr(implementation, name)(*arguments)
    if torch.compiler.is_compiling():
        return getattr(torch.ops.crfrnn, f"lattice_{name}")(backend, *arguments)
    refuse_forward_over_forward()
    return rules.apply(backend, *arguments)


# Rules


def _none_or(tensor: Tensor | None, function: Callable[[Tensor], Tensor]) -> Tensor | None:
    return None if tensor is None else function(tensor)


def _sum(*terms: Tensor | None) -> Tensor | None:
    """The sum of the terms that are not None."""
    present = [term for term in terms if term is not None]
    return sum(present[1:], present[0]) if present else None


def _present(structure: Structure | list[Tensor | None]) -> list[Tensor]:
    """The parts that the backend has; registered operators pass None for the others."""
    return [tensor for tensor in structure if tensor is not None]


class Build(Function):
    """Features to weights and structure; the structure is constant within a simplex."""

    @staticmethod
    def forward(*arguments: Any) -> Structure:
        return tuple(torch.ops.crfrnn.lattice_build(*arguments))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Structure) -> None:
        ctx.backend, features, mask, ctx.scale, *_ = inputs
        ctx.save_for_backward(mask, features, *output[1:])
        ctx.save_for_forward(mask, *output[1:])
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # otherwise zeros as large as the tables would be allocated

    @staticmethod
    def backward(ctx: Any, grad_weights: Tensor | None, *_: Any) -> tuple[Any, ...]:
        gradient = None
        if grad_weights is not None:
            mask, features, *structure = ctx.saved_tensors
            gradient = feature_gradient(ctx.backend, grad_weights, features, ctx.scale, *structure)
            if mask is not None:
                gradient = torch.where(mask.unsqueeze(-1), gradient, 0)
        return None, gradient, *[None] * 6

    @staticmethod
    def jvp(ctx: Any, _: Any, step: Tensor | None, *__: Any) -> tuple[Any, ...]:
        mask, *structure = ctx.saved_tensors
        if step is not None and mask is not None:
            step = torch.where(mask.unsqueeze(-1), step, 0)
        moved = _none_or(step, lambda s: weight_tangent(ctx.backend, s, ctx.scale, *structure))
        return moved, *[None] * len(structure)

    @staticmethod
    def vmap(info: Any, in_dims: Any, backend: str, features: Tensor, mask: Tensor | None,
             *options: Any) -> tuple[Structure, tuple[int | None, ...]]:  # fmt: skip
        """All samples share one lattice, in which they are pictures of one batch.

        The structure is expanded over the samples without a copy. This tells a filter at which nested level
        its lattice was built, and that values shared by all samples must be repeated for each picture.
        """
        size = info.batch_size
        features = front(features, in_dims[1], size).flatten(0, 1)
        if mask is not None:
            mask = front(mask, in_dims[2], size).flatten(0, 1)
        weights, *structure = _run("build", Build, backend, features, mask, *options)
        structure = [t.expand(size, *t.shape) for t in structure]
        return (weights, *structure), (None, *[0] * len(structure))


class Filter(Function):
    """F(v; w), or its adjoint with `reverse`."""

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        return torch.ops.crfrnn.lattice_filter(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.backend, values, weights, ctx.reverse, *structure = inputs
        ctx.wanted, ctx.parts = (values.requires_grad, weights.requires_grad), len(structure)
        structure = _present(structure)
        ctx.save_for_backward(values if weights.requires_grad else None, weights, *structure)
        ctx.save_for_forward(values, weights, *structure)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        values, weights, *structure = ctx.saved_tensors
        to_values = to_weights = None
        if ctx.wanted[0]:
            to_values = filter(ctx.backend, grad, weights, not ctx.reverse, *structure)
        if ctx.wanted[1]:
            x, g = (grad, values) if ctx.reverse else (values, grad)
            to_weights = weight_gradient(ctx.backend, x, g, weights, *structure)
        return None, to_values, to_weights, None, *[None] * ctx.parts

    @staticmethod
    def jvp(
        ctx: Any, _: Any, values_step: Tensor | None, weights_step: Tensor | None, *__: Any
    ) -> Tensor | None:
        values, weights, *structure = ctx.saved_tensors
        backend, reverse = ctx.backend, ctx.reverse
        return _sum(
            _none_or(values_step, lambda step: filter(backend, step, weights, reverse, *structure)),
            _none_or(
                weights_step, lambda step: filter_tangent(backend, values, weights, step, reverse, *structure)
            ),
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, backend: str, values: Tensor, weights: Tensor, reverse: bool,
             *structure: Tensor) -> tuple[Tensor, int]:  # fmt: skip
        size, joint = info.batch_size, of_all(in_dims[4:], structure)
        values = front(values, in_dims[1], size)
        if joint is not None:  # built inside vmap: the samples are its pictures
            weights = common(weights, in_dims[2])
            return filter(backend, values.flatten(0, 1), weights, reverse, *joint).view(values.shape), 0
        if in_dims[2] is not None:  # one lattice, but separate weights for each sample
            each = zip(values, front(weights, in_dims[2], size), strict=True)
            return torch.stack([filter(backend, v, w, reverse, *structure) for v, w in each]), 0
        size, points, channels = values.shape  # built outside vmap: the samples become channels
        joined = values.transpose(0, 1).flatten(1)
        return filter(backend, joined, weights, reverse, *structure).view(points, size, channels), 1


class WeightGradient(Function):
    """W(x, g, w), linear in each of the three."""

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        return torch.ops.crfrnn.lattice_weight_gradient(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.backend, x, g, weights, *structure = inputs
        ctx.parts, structure = len(structure), _present(structure)
        ctx.save_for_backward(x, g, weights, *structure)
        ctx.save_for_forward(x, g, weights, *structure)

    @staticmethod
    def backward(ctx: Any, step: Tensor) -> tuple[Any, ...]:
        x, g, weights, *structure = ctx.saved_tensors
        backend, (_, to_x, to_g, to_weights, *_) = ctx.backend, ctx.needs_input_grad
        return (
            None,
            filter_tangent(backend, g, weights, step, True, *structure) if to_x else None,
            filter_tangent(backend, x, weights, step, False, *structure) if to_g else None,
            weight_gradient(backend, x, g, step, *structure) if to_weights else None,
            *[None] * ctx.parts,
        )

    @staticmethod
    def jvp(ctx: Any, _: Any, x_step: Any, g_step: Any, weights_step: Any, *__: Any) -> Tensor | None:
        x, g, weights, *structure = ctx.saved_tensors
        backend = ctx.backend
        return _sum(
            _none_or(x_step, lambda step: weight_gradient(backend, step, g, weights, *structure)),
            _none_or(g_step, lambda step: weight_gradient(backend, x, step, weights, *structure)),
            _none_or(weights_step, lambda step: weight_gradient(backend, x, g, step, *structure)),
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, backend: str, x: Tensor, g: Tensor, weights: Tensor,
             *structure: Tensor) -> tuple[Tensor, int | None]:  # fmt: skip
        size, joint = info.batch_size, of_all(in_dims[4:], structure)
        x, g = front(x, in_dims[1], size), front(g, in_dims[2], size)
        if joint is not None:
            weights = common(weights, in_dims[3])
            return weight_gradient(backend, x.flatten(0, 1), g.flatten(0, 1), weights, *joint), None
        each = zip(x, g, front(weights, in_dims[3], size), strict=True)
        return torch.stack([weight_gradient(backend, a, b, w, *structure) for a, b, w in each]), 0


class FeatureGradient(Function):
    """The gradient of the features, linear in that of the weights; of the features only the shape is used."""

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        return torch.ops.crfrnn.lattice_feature_gradient(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.backend, _, features, ctx.scale, *structure = inputs
        ctx.parts, structure = len(structure), _present(structure)
        ctx.save_for_backward(*structure)
        ctx.save_for_forward(features, *structure)

    @staticmethod
    def backward(ctx: Any, step: Tensor) -> tuple[Any, ...]:
        moved = weight_tangent(ctx.backend, step, ctx.scale, *ctx.saved_tensors)
        return None, moved, None, None, *[None] * ctx.parts

    @staticmethod
    def jvp(ctx: Any, _: Any, step: Tensor | None, *__: Any) -> Tensor | None:
        features, *structure = ctx.saved_tensors
        return _none_or(step, lambda s: feature_gradient(ctx.backend, s, features, ctx.scale, *structure))

    @staticmethod
    def vmap(info: Any, in_dims: Any, backend: str, grad_weights: Tensor, features: Tensor, scale: float,
             *structure: Tensor) -> tuple[Tensor, int]:  # fmt: skip
        size, joint = info.batch_size, of_all(in_dims[4:], structure)
        features = front(features, in_dims[2], size)
        if joint is not None:
            grad_weights = common(grad_weights, in_dims[1])
            flat = feature_gradient(backend, grad_weights, features.flatten(0, 1), scale, *joint)
            return flat.view(features.shape), 0
        each = zip(front(grad_weights, in_dims[1], size), features, strict=True)
        return torch.stack([feature_gradient(backend, g, f, scale, *structure) for g, f in each]), 0


class WeightTangent(Function):
    """The adjoint of `FeatureGradient`."""

    @staticmethod
    def forward(backend: str, step: Tensor, scale: float, *structure: Tensor) -> Tensor:
        simplices = find(backend).simplices(*structure)
        rows = scale * step.reshape(-1, step.shape[-1])
        rows = rows if simplices.point is None else rows[simplices.point]
        return reference.barycentric_tangent(rows, simplices.rank.long())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.backend, step, ctx.scale, *structure = inputs
        ctx.save_for_backward(step, *structure)
        ctx.save_for_forward(*structure)

    @staticmethod
    def backward(ctx: Any, grad_weights: Tensor) -> tuple[Any, ...]:
        step, *structure = ctx.saved_tensors
        gradient = feature_gradient(ctx.backend, grad_weights, step, ctx.scale, *structure)
        return None, gradient, None, *[None] * len(structure)

    @staticmethod
    def jvp(ctx: Any, _: Any, step: Tensor | None, *__: Any) -> Tensor | None:
        return _none_or(step, lambda s: weight_tangent(ctx.backend, s, ctx.scale, *ctx.saved_tensors))

    @staticmethod
    def vmap(info: Any, in_dims: Any, backend: str, step: Tensor, scale: float,
             *structure: Tensor) -> tuple[Tensor, int | None]:  # fmt: skip
        step, joint = front(step, in_dims[1], info.batch_size), of_all(in_dims[3:], structure)
        if joint is not None:
            return weight_tangent(backend, step.flatten(0, 1), scale, *joint), None
        return torch.stack([weight_tangent(backend, s, scale, *structure) for s in step]), 0


# Registration


def _fake_build(backend, *arguments):
    return cast(Compiled, find(backend)).fake_build(*arguments)


def _fake_filter(backend, values, weights, reverse, *structure):
    return values.new_empty(values.shape, dtype=weights.dtype)


def _fake_weight_gradient(backend, x, g, weights, *structure):
    return weights.new_empty(weights.shape)


def _fake_feature_gradient(backend, grad_weights, features, scale, *structure):
    return grad_weights.new_empty(features.shape)


# The operator returns a list, the function a tuple.


def _backward_of_build(ctx: Any, grads: list[Any]) -> tuple[Any, ...]:
    return Build.backward(ctx, *grads)


def _vmap_of_build(*arguments: Any) -> tuple[list[Any], ...]:
    return tuple(map(list, Build.vmap(*arguments)))


_library = torch.library.Library("crfrnn", "DEF")
for _name, _rules, _fake, _backward, _vmap in (
    ("build", Build, _fake_build, _backward_of_build, _vmap_of_build),
    ("filter", Filter, _fake_filter, Filter.backward, Filter.vmap),
    ("weight_gradient", WeightGradient, _fake_weight_gradient, WeightGradient.backward, WeightGradient.vmap),
    (
        "feature_gradient",
        FeatureGradient,
        _fake_feature_gradient,
        FeatureGradient.backward,
        FeatureGradient.vmap,
    ),
):
    _library.define(f"lattice_{_name}{SCHEMAS[_name]}")
    # The same for every device: Triton's interpreter runs on the CPU.
    _library.impl(
        f"lattice_{_name}",
        lambda backend, *arguments, name=_name: getattr(find(backend), name)(*arguments),
        "CompositeExplicitAutograd",
    )
    _operator = f"crfrnn::lattice_{_name}"
    torch.library.register_fake(_operator, _fake, lib=_library)
    torch.library.register_autograd(_operator, _backward, setup_context=_rules.setup_context, lib=_library)
    torch.library.register_vmap(_operator, _vmap, lib=_library)
