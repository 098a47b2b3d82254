# SPDX-License-Identifier: MIT
"""One update of mean field over rows of labels, for callers that need Q after every update.

Such a step through `mean_field(…, 1, initial=log Q)` gives the same and takes 2.5 to 4 times as long: rows go
to planes and back, through a logarithm and a softmax.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crfrnn.crf import fused
from crfrnn.crf.kernels import GaussianKernel
from crfrnn.crf.problem import transforms
from crfrnn.lattice import Lattice


def update(
    unary: Tensor,
    marginals: Tensor,
    kernels: Sequence[GaussianKernel],
    costs: Sequence[Tensor],
    normalize: bool = True,
    out: Tensor | None = None,
) -> Tensor:
    """``x_i = U_i - Σ_m C_m (K_m Q)_i``, and softmax(x) if it is to be normalised.

    One iteration of `mean_field` (Zheng et al. 2015, Algorithm 1) in the pixels' own order and without a
    gradient. Lattices run in the native core, other kernels in plain torch.

    unary, marginals  Float32[N, L], contiguous: U and Q
    kernels           of one picture of N points
    costs             C_m, [], [L] or [L, L] each
    out               Float32[N, L], contiguous: written, returned; may be `marginals` where x is normalised
    """
    with torch.no_grad():
        if _is_native(unary, kernels):
            transform = transforms(costs, torch.eye(unary.shape[1], dtype=unary.dtype))
            parts = fused.parts(kernels, 1, len(unary))
            out = fused.ops.row_memory(*unary.shape) if out is None else out
            fused.ops.update(unary, marginals, transform, parts, normalize, out)
            return out
        x = unary.clone()
        for kernel, cost in zip(kernels, costs, strict=True):
            message = (kernel @ marginals[None])[0]
            x -= message @ cost.T if cost.ndim == 2 else message * cost
        x = x.softmax(-1) if normalize else x
        return x if out is None else out.copy_(x)


def _is_native(unary: Tensor, kernels: Sequence[GaussianKernel]) -> bool:
    return bool(kernels) and all(
        kernel.mask is None
        and isinstance(kernel.operator, Lattice)
        and kernel.operator.backend == "cpu"
        and fused.kernel_reason(kernel, unary.T[None], "cpu") is None
        for kernel in kernels
    )
