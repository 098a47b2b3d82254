# SPDX-License-Identifier: MIT
"""The exact Gaussian filter, O(N²), on any device: the reference for the accuracy of the lattice.

One operator for all backends; plain torch (`reference.gaussian_sum`) is the readable one, for any device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from crfrnn.lattice import reference
from crfrnn.lattice.backend import choose, find
from crfrnn.lattice.samples import front
from crfrnn.lattice.validate import (
    check_dense,
    check_device,
    check_features,
    check_values,
    compute_dtype,
    describe,
    needs_graph,
    refuse_forward_over_forward,
)


def exact_filter(
    features: Tensor, values: Tensor, queries: Tensor | None = None, *, backend: str | None = None
) -> Tensor:
    """Gaussian sum over all pairs: out_i = Σ_j exp(-½ |q_i - f_j|²) v_j, the self term included.

    features Float[B, N, d] in units of the bandwidths, values Float[B, N, C], queries Float[B, M, d]
    (None: the features) -> Float[B, M, C]. float64 if any of them is, else float32. Differentiable in all
    three; holds only a block of rows at a time, forward and backward. `backend` as for `Lattice.build`.

    Krähenbühl & Koltun, NIPS 2011, eq. 3 (arXiv:1210.5644).

    >>> exact_filter(torch.tensor([[[0.0], [1.0]]]), torch.ones(1, 2, 1)).squeeze()
    tensor([1.6065, 1.6065])
    """
    features = check_features(features, max_dimension=None)
    values = check_values(values, features.shape[0], features.shape[1], features.device)
    if queries is None:
        queries = features.view_as(features)  # torch.compile rejects the same tensor twice
    else:
        if not isinstance(queries, Tensor) or not queries.is_floating_point():
            raise TypeError(f"queries: expected floating-point [B, M, d], got {describe(queries)}")
        check_dense("queries", queries)
        if queries.ndim != 3 or queries.shape[::2] != features.shape[::2]:
            raise ValueError(
                f"queries: expected [B, M, d], B and d as in features {tuple(features.shape)}, "
                f"got {describe(queries)}"
            )
        check_device("queries", queries, features.device)
    return _filter(features, values, queries, backend)


def _filter(features: Tensor, values: Tensor, queries: Tensor, backend: str | None) -> Tensor:
    """`exact_filter` of validated arguments."""
    dtype = compute_dtype(features, values, queries)
    # Contiguous, because rounding in torch's matrix products depends on the layout.
    features, values, queries = (t.to(dtype).contiguous() for t in (features, values, queries))
    backend = choose(features.device, "exact", dtype, features.shape[2], backend)
    if values.shape[0] == features.shape[0]:
        return _sum(backend, features, values, queries)
    pictures, points, channels = values.shape  # with one set of points, pictures become channels
    joined = values.transpose(0, 1).reshape(1, points, pictures * channels)
    out = _sum(backend, features, joined, queries)
    return out.view(out.shape[1], pictures, channels).transpose(0, 1)


@dataclass(frozen=True, eq=False)
class Exact:
    """`exact_filter` as a linear operator over fixed, already validated points, Float[B, N, d].

    >>> Exact(torch.rand(1, 5, 2)).diagonal()
    tensor([[1., 1., 1., 1., 1.]])
    """

    features: Tensor
    backend: str | None = None  # None: the device's default

    is_symmetric = True

    def filter(self, values: Tensor, reverse: bool = False) -> Tensor:
        """Float[B, N, C] -> Float[B, N, C]; symmetric, so `reverse` changes nothing."""
        return self.apply(check_values(values, *self.shape, self.features.device))

    def apply(self, values: Tensor, reverse: bool = False) -> Tensor:
        """`filter` of values returned by `check_values`."""
        # A view, because torch.compile rejects the same tensor twice.
        return _filter(self.features, values, self.features.view_as(self.features), self.backend)

    def diagonal(self) -> Tensor:
        """exp(0) = 1, Float[B, N]."""
        return torch.ones_like(self.features[..., 0])

    @property
    def shape(self) -> tuple[int, int]:
        """(B, N)."""
        return self.features.shape[0], self.features.shape[1]


class GaussianSum(Function):
    """The exact sum with its derivatives. Backward recomputes the kernel instead of saving N² numbers."""

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        return torch.ops.crfrnn.gaussian_sum(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.backend, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        features, values, queries = ctx.saved_tensors
        arguments = features, values, queries, grad, list(ctx.needs_input_grad[1:])
        if needs_graph(grad):  # autograd differentiates the reference
            gradients = reference.gaussian_gradients(*arguments)
        else:
            gradients = torch.ops.crfrnn.gaussian_gradients(ctx.backend, *arguments)
        return None, *(g if want else None for g, want in zip(gradients, arguments[-1], strict=True))

    @staticmethod
    def jvp(ctx: Any, _: None, features_step: Any, values_step: Any, queries_step: Any) -> Tensor:
        features, values, queries = ctx.saved_tensors
        return reference.gaussian_tangent(features, values, queries, features_step, values_step, queries_step)

    @staticmethod
    def vmap(info: Any, in_dims: Any, backend: str, *tensors: Tensor) -> tuple[Tensor, int]:
        """The samples become additional pictures of the batch."""
        whole = [front(t, d, info.batch_size) for t, d in zip(tensors, in_dims[1:], strict=True)]
        return _sum(backend, *(t.flatten(0, 1) for t in whole)).unflatten(0, whole[0].shape[:2]), 0


def _sum(*arguments: Any) -> Tensor:
    if torch.compiler.is_compiling():  # the compiler cannot trace a function with forward mode
        return torch.ops.crfrnn.gaussian_sum(*arguments)
    refuse_forward_over_forward()
    return GaussianSum.apply(*arguments)  # pyright: ignore[reportReturnType]


# Registration


def _vmap_gradients(info: Any, in_dims: Any, backend: str, *arguments: Any) -> tuple[list[Tensor], list[int]]:
    *tensors, wanted = arguments
    whole = [front(t, d, info.batch_size) for t, d in zip(tensors, in_dims[1:], strict=False)]
    gradients = torch.ops.crfrnn.gaussian_gradients(backend, *(t.flatten(0, 1) for t in whole), wanted)
    return [g.unflatten(0, whole[0].shape[:2]) for g in gradients], [0, 0, 0]


_TENSORS = "str backend, Tensor features, Tensor values, Tensor queries"
_library = torch.library.Library("crfrnn", "FRAGMENT")
_library.define(f"gaussian_sum({_TENSORS}) -> Tensor")
_library.define(f"gaussian_gradients({_TENSORS}, Tensor grad, bool[] wanted) -> Tensor[]")
for _name in ("gaussian_sum", "gaussian_gradients"):
    # The same for every device, like those of a lattice.
    _library.impl(
        _name,
        lambda backend, *arguments, name=_name: getattr(find(backend), name)(*arguments),
        "CompositeExplicitAutograd",
    )


@torch.library.register_fake("crfrnn::gaussian_sum", lib=_library)
def _(backend, features, values, queries):
    return values.new_empty(values.shape[0], queries.shape[1], values.shape[2])


@torch.library.register_fake("crfrnn::gaussian_gradients", lib=_library)
def _(backend, features, values, queries, grad, wanted):
    return [t.new_empty(t.shape) for t in (features, values, queries)]


torch.library.register_autograd(
    "crfrnn::gaussian_sum", GaussianSum.backward, setup_context=GaussianSum.setup_context, lib=_library
)
torch.library.register_vmap("crfrnn::gaussian_sum", GaussianSum.vmap, lib=_library)
torch.library.register_vmap("crfrnn::gaussian_gradients", _vmap_gradients, lib=_library)
