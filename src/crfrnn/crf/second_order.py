# SPDX-License-Identifier: MIT
"""The gradient of mean field as a graph of its own, for whoever differentiates it again.

The operators of `crfrnn.crf.ops` and `triton_ops` go back through all iterations in one call that leaves no
graph. A backward pass with ``create_graph=True`` therefore runs the iterations once more as
`crfrnn.crf.iteration` writes them, over kernels that know derivatives of every order, and differentiates
that. Forward mode and torch.func never reach the operators: `mean_field` runs the iterations there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import torch
from torch import Tensor

from crfrnn.crf.iteration import Iteration, without_padding
from crfrnn.crf.recompute import recomputed
from crfrnn.lattice import Lattice, Separable


@dataclass(frozen=True, eq=False)
class ScaledKernel:
    """post · (K (pre · v)) of an operator's parts, K a lattice or separable."""

    operator: Lattice | Separable
    pre: Tensor | None  # Float[B * N]
    post: Tensor | None

    def __matmul__(self, values: Tensor) -> Tensor:
        """Float[B, N, L] -> Float[B, N, L]."""
        column = (*values.shape[:2], 1)
        if self.pre is not None:
            values = values * self.pre.view(column)
        values = self.operator.filter(values)
        return values if self.post is None else values * self.post.view(column)


Make = Callable[[Tensor, Sequence[Tensor], Tensor], Lattice | Separable]
"""(weights, tables, θ) of a kernel to its operator; an empty tensor is a part that it does not have."""


def needed(grad: Tensor) -> bool:
    """True where the operator's own backward pass will not do: with a graph, or for many gradients."""
    if torch.compiler.is_compiling():
        return False
    # is_grads_batched, with which torch.autograd.functional.jacobian(vectorize=True) goes back
    batched = getattr(getattr(torch._C, "_functorch", None), "is_legacy_batchedtensor", lambda _: False)
    return torch.is_grad_enabled() or batched(grad)


def differentiate(
    grad: Tensor,
    unary: Tensor,
    initial: Tensor | None,
    transform: Tensor,
    parts: Sequence[Sequence[Tensor]],
    make: Make,
    mask: Tensor | None,
    clamp: Tensor | None,
    iterations: int,
    damping: float,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, list[list[Tensor | None]]]:
    """Gradients of <grad, logits> with a graph: of unary, initial, transform and parts.

    grad, unary, initial: [B, L, N]. parts: weights, tables, thetas, pres, posts of the kernels as the
    operators take them; the tables of a kernel lie side by side. None stands for what needs no gradient.
    """
    graph = torch.is_grad_enabled()
    # Each by itself: in the caller's graph one of them may be a function of another.
    with torch.enable_grad():
        flat = [None if t is None else t.view_as(t) for t in (unary, initial, transform, *chain(*parts))]
        start = _logits(flat, [len(group) for group in parts], make, mask, clamp, iterations, damping)
    wanted = [t for t in flat if t is not None and t.requires_grad]
    found = iter(torch.autograd.grad(start, wanted, grad, create_graph=graph, allow_unused=True))
    gradients = iter([next(found) if t is not None and t.requires_grad else None for t in flat])
    own = next(gradients), next(gradients), next(gradients)
    return *own, [list(islice(gradients, len(group))) for group in parts]


def _logits(
    flat: Sequence[Tensor | None],
    counts: Sequence[int],
    make: Make,
    mask: Tensor | None,
    clamp: Tensor | None,
    iterations: int,
    damping: float,
) -> Tensor:
    """x after the last iteration, Float[B, L, N]; flat: unary, initial, transform, `counts` of each part."""
    unary, initial, transform, *rest = flat
    assert unary is not None and transform is not None
    there = (t for t in rest if t is not None)
    weights, tables, *others = ([*islice(there, count)] for count in counts)
    each = len(tables) // len(weights)
    kernels = [
        ScaledKernel(
            make(own, tables[m * each : (m + 1) * each], theta),
            *(scale if scale.numel() else None for scale in scales),
        )
        for m, (own, theta, *scales) in enumerate(zip(weights, *others, strict=True))
    ]
    # A_m holds the compatibility with its sign.
    minus = -torch.eye(unary.shape[1], dtype=unary.dtype, device=unary.device)
    valid = None if mask is None else (mask != 0).view(len(unary), -1)
    known = None if clamp is None else clamp.view(len(unary), -1)
    update = Iteration.over(unary.mT, kernels, transform.unbind(), minus, valid, known, damping=damping)
    x = without_padding((unary if initial is None else initial).mT, update.valid)
    for _ in range(iterations):
        x = recomputed(update, x)
    return x.mT
