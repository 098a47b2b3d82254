# SPDX-License-Identifier: MIT
"""Where a dense CRF has an energy: its pairwise term must be a symmetric quadratic form.

Every kernel a symmetric operator (normalisation "none" or "symmetric", and ``kernel.symmetrized()`` for a
lattice, whose axis blurs do not commute) and every μ W_m a symmetric matrix. Elsewhere the updates still
run, but they descend on nothing.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

TOLERANCE = 1e-5  # of the largest entry: what float32 rounding of a product may leave


def check_symmetric_kernel(index: int, kernel: Any) -> None:
    """Refuse an operator that does not say ``is_symmetric``."""
    if not getattr(kernel, "is_symmetric", False):
        mode = getattr(kernel, "normalization", "unknown")
        raise ValueError(
            f"kernels[{index}]: expected a symmetric operator, because otherwise no free energy exists; got "
            f"{type(kernel).__name__} with normalization {mode!r}; use normalization='none' or 'symmetric' "
            "and kernel.symmetrized()"
        )


def label_form(index: int, weight: Tensor, compatibility: Tensor) -> Tensor:
    """μ W_m, Float[L, L] without a graph; refused unless symmetric."""
    weight, compatibility = weight.detach(), compatibility.detach()
    form = compatibility @ weight if weight.ndim == 2 else compatibility * weight
    if float((form - form.mT).abs().amax()) > TOLERANCE * float(form.abs().amax()):
        raise ValueError(
            f"compatibility @ weights[{index}]: expected a symmetric matrix, because otherwise no "
            "free energy exists; got an asymmetric one; use one weight for all labels and a symmetric "
            "compatibility"
        )
    return form
