# SPDX-License-Identifier: MIT
"""The samples of torch.vmap: lattices built inside it are merged into one, whose pictures are the samples.

The structure of such a lattice is expanded over the samples without a copy; its weights are stored once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from crfrnn.lattice.validate import in_functorch

Structure = tuple[Tensor, ...]


def front(tensor: Tensor, dimension: int | None, samples: int) -> Tensor:
    """A batching rule's argument with the vmap dimension first, repeated if shared by all samples."""
    return tensor.expand(samples, *tensor.shape) if dimension is None else tensor.movedim(dimension, 0)


def of_all(in_dims: Sequence[int | None], structure: Structure) -> Structure | None:
    """The structure over all samples' lattices if built at this level of vmap; None: built outside."""
    if all(dimension is None for dimension in in_dims):
        return None
    for tensor, dimension in zip(structure, in_dims, strict=True):
        if dimension is None or (tensor.shape[dimension] > 1 and tensor.stride(dimension) != 0):
            raise ValueError(
                "lattice: expected one built inside the function that torch.vmap maps, got one built "
                "outside; call Lattice.build or GaussianKernel inside that function"
            )
    return tuple(common(t, dimension) for t, dimension in zip(structure, in_dims, strict=True))


def common(tensor: Tensor, dimension: int | None) -> Tensor:
    """A tensor repeated for every sample, reduced to one copy: the weights of a lattice over all samples."""
    return tensor if dimension is None else tensor.select(dimension, 0)


def joined(structure: Structure) -> Structure:
    """A structure that tensor operations can also read under vmap: that of all samples' lattices."""
    return Joined.apply(*structure) if in_functorch() else structure  # pyright: ignore[reportReturnType]


def split(rows: Tensor, structure: Structure) -> Tensor:
    """The rows of the sample's own points; `rows` has one for each point of `joined(structure)`."""
    return Split.apply(rows, *structure) if in_functorch() else rows  # pyright: ignore[reportReturnType]


class Joined(Function):
    """The structure itself; if samples share one, the shared one."""

    @staticmethod
    def forward(*structure: Tensor) -> Structure:
        return tuple(t.detach() for t in structure)

    @staticmethod
    def setup_context(ctx: Any, inputs: Structure, output: Structure) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx: Any, *steps: Any) -> tuple[None, ...]:
        return (None,) * len(steps)

    @staticmethod
    def jvp(ctx: Any, *steps: Any) -> tuple[None, ...]:
        return (None,) * len(steps)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *structure: Tensor) -> tuple[Structure, tuple[None, ...]]:
        return joined(of_all(in_dims, structure) or structure), (None,) * len(structure)


class Split(Function):
    """Split rows of the points of all samples into those of each; the adjoint of `Together`."""

    @staticmethod
    def forward(rows: Tensor, *structure: Tensor) -> Tensor:
        return rows.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Structure, output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, step: Tensor) -> tuple[Any, ...]:
        return Together.apply(step, *ctx.saved_tensors), *([None] * len(ctx.saved_tensors))

    @staticmethod
    def jvp(ctx: Any, step: Tensor, *_: Any) -> Tensor:
        return Split.apply(step, *ctx.saved_tensors)  # pyright: ignore[reportReturnType]

    @staticmethod
    def vmap(info: Any, in_dims: Any, rows: Tensor, *structure: Tensor) -> tuple[Tensor, int]:
        joint = of_all(in_dims[1:], structure)
        if joint is None:
            each = (Split.apply(r, *structure) for r in front(rows, in_dims[0], info.batch_size))
            return torch.stack(list(each)), 0  # pyright: ignore[reportArgumentType]
        own = Split.apply(common(rows, in_dims[0]), *joint)
        return own.view(info.batch_size, -1), 0  # pyright: ignore[reportAttributeAccessIssue]


class Together(Function):
    """Concatenate the rows of the points of each sample."""

    forward, setup_context = Split.forward, Split.setup_context

    @staticmethod
    def backward(ctx: Any, step: Tensor) -> tuple[Any, ...]:
        return Split.apply(step, *ctx.saved_tensors), *([None] * len(ctx.saved_tensors))

    @staticmethod
    def jvp(ctx: Any, step: Tensor, *_: Any) -> Tensor:
        return Together.apply(step, *ctx.saved_tensors)  # pyright: ignore[reportReturnType]

    @staticmethod
    def vmap(info: Any, in_dims: Any, rows: Tensor, *structure: Tensor) -> tuple[Any, int | None]:
        joint, rows = of_all(in_dims[1:], structure), front(rows, in_dims[0], info.batch_size)
        if joint is not None:
            return Together.apply(rows.flatten(0, 1), *joint), None
        return torch.stack([Together.apply(r, *structure) for r in rows]), 0  # pyright: ignore[reportArgumentType]
