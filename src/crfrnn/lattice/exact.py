# SPDX-License-Identifier: MIT
"""The exact Gaussian filter, O(N²): the truth that the lattice is measured against, on any device.

CUDA tensors in float32 go to Triton's kernels (`triton_exact`), which this torch is the readable version of.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crfrnn.lattice.backend import choose
from crfrnn.lattice.validate import (
    check_features,
    check_values,
    compute_dtype,
    exporting,
    refuse_forward_over_forward,
)

BLOCK = 2**21  # kernel entries held at once: 16 MiB in float64, whatever N is


def exact_filter(
    features: Tensor, values: Tensor, queries: Tensor | None = None, backend: str | None = None
) -> Tensor:
    """Gaussian sum over all pairs: out_i = Σ_j exp(-½ |q_i - f_j|²) v_j, the self term included.

    features Float[B, N, d] in units of the bandwidths, values Float[B, N, C], queries Float[B, M, d]
    (None: the features) -> Float[B, M, C]. float64 as soon as one of them is, else float32. Differentiable in
    all three; a block of rows at a time is held, forward and backward. `backend` as for `Lattice.build`.

    Krähenbühl & Koltun, NIPS 2011, eq. 3 (arXiv:1210.5644).

    >>> exact_filter(torch.tensor([[[0.0], [1.0]]]), torch.ones(1, 2, 1)).squeeze()
    tensor([1.6065, 1.6065])
    """
    features = check_features(features, max_dimension=None)
    values = check_values(values, features.shape[0], features.shape[1], features.device)
    if queries is None:
        queries = features.view_as(features)  # torch.compile refuses one tensor in two places
    elif queries.ndim != 3 or queries.shape[::2] != features.shape[::2] or not queries.is_floating_point():
        raise ValueError(
            f"queries: expected floating-point [B, M, d], B and d as in features {tuple(features.shape)}, "
            f"got {str(queries.dtype).removeprefix('torch.')} {tuple(queries.shape)}"
        )
    if not torch.compiler.is_compiling():
        refuse_forward_over_forward()
    gaussian_sum = (_GaussianSum if torch.compiler.is_compiling() else _SumInBothModes).apply
    dtype = compute_dtype(features, values, queries)
    # Contiguous, because the bits of torch's products depend on the layout.
    features, values, queries = (t.to(dtype).contiguous() for t in (features, values, queries))
    backend = choose(features.device, "exact", dtype, features.shape[2], backend)
    if values.shape[0] == features.shape[0]:
        return gaussian_sum(features, values, queries, backend)
    pictures, points, channels = (
        values.shape
    )  # one set of points for the whole batch: pictures become channels
    joined = values.transpose(0, 1).reshape(1, points, pictures * channels)
    out = gaussian_sum(features, joined, queries, backend)
    return out.view(out.shape[1], pictures, channels).transpose(0, 1)


@dataclass(frozen=True, eq=False)
class Exact:
    """`exact_filter` as a linear operator over fixed points, Float[B, N, d].

    >>> Exact(torch.rand(1, 5, 2)).diagonal()
    tensor([[1., 1., 1., 1., 1.]])
    """

    features: Tensor
    backend: str | None = None  # None: the device decides

    is_symmetric = True

    def filter(self, values: Tensor, reverse: bool = False) -> Tensor:
        """Float[B, N, C] -> Float[B, N, C]; symmetric, so `reverse` changes nothing."""
        return exact_filter(self.features, values, backend=self.backend)

    def diagonal(self) -> Tensor:
        """exp(0) = 1, Float[B, N]."""
        return torch.ones_like(self.features[..., 0])

    @property
    def shape(self) -> tuple[int, int]:
        """(B, N)."""
        return self.features.shape[0], self.features.shape[1]


class _GaussianSum(torch.autograd.Function):
    """Recomputes the kernel in backward instead of keeping N² numbers; vmap works too."""

    generate_vmap_rule = True

    @staticmethod
    def forward(features: Tensor, values: Tensor, queries: Tensor, backend: str) -> Tensor:
        if backend == "triton":
            return torch.ops.crfrnn.triton_gaussian_sum(features, values, queries)
        with torch.autocast(values.device.type, enabled=False):  # half precision would spoil the truth
            blocks = [kernel @ values for _, kernel in _kernel_blocks(features, queries)]
        return torch.cat(blocks, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.backend = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        features, values, queries = ctx.saved_tensors
        moves = ctx.needs_input_grad[0] or ctx.needs_input_grad[2]
        if ctx.backend == "triton" and not torch.is_grad_enabled():  # a gradient of it needs the torch below
            return *_triton_backward(ctx.needs_input_grad, features, values, queries, grad), None
        to_features, to_values, to_queries = torch.zeros_like(features), torch.zeros_like(values), []
        with torch.autocast(values.device.type, enabled=False):
            for rows, kernel in _kernel_blocks(features, queries):
                # Not grad[:, rows], which is an alias where it is all: jacobian(vectorize=True) has none.
                g = grad.narrow(1, rows.start, kernel.shape[1])
                to_values = to_values + kernel.transpose(1, 2) @ g
                if not moves:
                    continue
                # ∂k_ij/∂f_j = k_ij (q_i - f_j) = -∂k_ij/∂q_i
                pull = kernel * (g @ values.transpose(1, 2))
                q = queries[:, rows]
                to_features = to_features + pull.transpose(1, 2) @ q - pull.sum(1).unsqueeze(-1) * features
                to_queries.append(pull @ features - pull.sum(2, keepdim=True) * q)
        if not moves:
            return None, to_values, None, None
        return to_features, to_values, torch.cat(to_queries, 1), None


class _SumInBothModes(_GaussianSum):
    """Apart, because torch.compile refuses functions with a forward mode."""

    @staticmethod
    def jvp(
        ctx: Any,
        features_step: Tensor | None,
        values_step: Tensor | None,
        queries_step: Tensor | None,
        _: None,
    ) -> Tensor:
        features, values, queries = ctx.saved_tensors
        moved = [torch.zeros_like(values[:, :0])]
        with torch.autocast(values.device.type, enabled=False):
            for rows, kernel in _kernel_blocks(features, queries):
                step = torch.zeros_like(kernel)  # of log k_ij
                if features_step is not None:
                    along = features_step.transpose(1, 2)
                    step = step + queries[:, rows] @ along - (features * features_step).sum(-1).unsqueeze(1)
                if queries_step is not None:
                    q = queries_step[:, rows]
                    step = step + q @ features.transpose(1, 2) - (queries[:, rows] * q).sum(-1, keepdim=True)
                part = (kernel * step) @ values
                moved.append(part if values_step is None else part + kernel @ values_step)
        return torch.cat(moved, 1)


def _triton_backward(
    wanted: tuple[bool, ...], features: Tensor, values: Tensor, queries: Tensor, grad: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """K is symmetric in its two lists of points: each gradient is a forward product with them exchanged."""
    ops = torch.ops.crfrnn
    to_features = ops.triton_gaussian_pull(features, queries, values, grad) if wanted[0] else None
    to_values = ops.triton_gaussian_sum(queries, grad, features) if wanted[1] else None
    to_queries = ops.triton_gaussian_pull(queries, features, grad, values) if wanted[2] else None
    return to_features, to_values, to_queries


def _kernel_blocks(features: Tensor, queries: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of rows of exp(-½ |q_i - f_j|²), Float[B, rows, N]; at least one, if an empty one."""
    batch, points, dimension = features.shape
    if exporting():  # a program has one number of blocks, whatever the size of its inputs
        starts, step = range(1), queries.shape[1]
    else:
        step = max(1, BLOCK // max(1, batch * points))
        starts = range(0, max(1, queries.shape[1]), step)
    for start in starts:
        rows = slice(start, start + step)
        # Differences, not |q|² + |f|² - 2qf: colours at 85 bandwidths would cost four digits of the exponent.
        distance = (queries[:, rows, 0, None] - features[:, None, :, 0]).square()
        for k in range(1, dimension):
            distance = distance + (queries[:, rows, k, None] - features[:, None, :, k]).square()
        yield rows, torch.exp(-0.5 * distance)
