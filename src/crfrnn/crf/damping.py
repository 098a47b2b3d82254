# SPDX-License-Identifier: MIT
"""The step size with which parallel mean-field updates never increase the free energy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from crfrnn.crf import validate
from crfrnn.crf.energy import check_symmetric_kernel, label_form
from crfrnn.crf.iteration import Kernel
from crfrnn.crf.kernels import GaussianKernel
from crfrnn.lattice import Exact, Separable

POWER_STEPS = 20


def monotone_damping(
    kernels: Sequence[Kernel], weights: Sequence[Tensor | float], compatibility: Tensor
) -> float:
    """The largest step size for which parallel updates provably never increase the free energy.

    The damped update is a proximal step: with ``τ = 1/damping - 1`` and A the quadratic form of the pairwise
    term, Q⁺ minimises ``h(Q) = <A Q_t - U, Q> - H(Q) + τ KL(Q ‖ Q_t)``. Let ``δ = Q⁺ - Q_t``, and let λ₊ ≥ 0
    bound the eigenvalues of A on the feasible directions, those whose labels sum to zero at every
    pixel. Then

    - ``F(Q⁺) - F(Q_t) ≤ h(Q⁺) - h(Q_t) - τ KL(Q⁺ ‖ Q_t) + ½ λ₊ |δ|²``: F without entropy is quadratic;
    - ``h(Q_t) - h(Q⁺) = (1 + τ) KL(Q_t ‖ Q⁺)``: h is linear plus 1 + τ times the negative entropy;
    - ``KL ≥ ½ |δ|₁² ≥ |δ|₂²`` at each pixel: Pinsker's inequality, then δ sums to zero.

    So F decreases by at least ``(1 + 2τ - λ₊/2) |δ|²``, which is nonnegative if ``τ ≥ λ₊/4 - ½``:

    ``damping = min(1, 4 / (2 + λ₊))``.

    A concave pairwise term (positive semidefinite kernels, attractive μ W) has λ₊ = 0 and needs no
    damping, as Krähenbühl & Koltun (ICML 2013) showed with the concave-convex procedure. λ₊ is bounded by
    ``Σ_m max(c₊ κ₊, c₋ κ₋, 0)``. c are the extreme eigenvalues of μ W_m on label vectors that sum to zero;
    κ₊ bounds the spectral radius of K_m, which has no negative entries; κ₋ bounds its eigenvalues from
    below: 0 for an exact or separable kernel and if ``kernel.is_positive_semidefinite`` is true, minus
    the largest self term if it is excluded, and -κ₊ for a lattice.

    Args:
        kernels: symmetric operators without negative entries, with ``.shape == (B, N)``.
        weights, compatibility: as in `mean_field`, every μ W_m symmetric.

    Raises:
        ValueError: if no free energy exists.

    Source: Baqué et al., CVPR 2016, doi:10.1109/CVPR.2016.581 (the proximal step).

    >>> import torch
    >>> from crfrnn import GaussianKernel, monotone_damping
    >>> kernel = GaussianKernel.spatial((6, 6), 1.0, normalization="symmetric")
    >>> monotone_damping([kernel], [9.0], -torch.eye(2))  # neighbours attract: concave
    1.0
    >>> round(monotone_damping([kernel], [9.0], torch.eye(2)), 2)  # neighbours repel: 4 / (2 + 9)
    0.36
    """
    compatibility = validate.check_tensor("compatibility", compatibility, "a tensor [L, L]").detach()
    if compatibility.ndim != 2 or compatibility.shape[0] != compatibility.shape[1]:
        raise ValueError(f"compatibility: expected [L, L], got {validate.describe(compatibility)}")
    labels = compatibility.new_empty(1, len(compatibility), dtype=torch.float64)  # a unary of no pixels
    kernels, weights = validate.check_kernels(kernels, weights, labels, pixels=None)
    compatibility = validate.check_weight("compatibility", compatibility, labels, matrix_only=True)
    for index, weight in enumerate(weights):
        validate.check_finite(f"weights[{index}]", weight, validate.FINITE_WEIGHT)
    validate.check_finite("compatibility", compatibility, validate.FINITE_WEIGHT)
    size = compatibility.shape[0]
    centre = torch.eye(size, dtype=torch.float64, device=compatibility.device) - 1 / size
    curvature = 0.0
    for index, (kernel, weight) in enumerate(zip(kernels, weights, strict=True)):
        check_symmetric_kernel(index, kernel)
        form = label_form(index, weight, compatibility)
        extremes = torch.linalg.eigvalsh(centre @ form @ centre)
        upper = spectral_bound(kernel, compatibility.device)
        lower = _least_eigenvalue(kernel, upper)
        curvature += max(float(extremes[-1]) * upper, float(extremes[0]) * lower, 0.0)
    return min(1.0, 4 / (2 + curvature))


@torch.no_grad()
def spectral_bound(kernel: Any, device: torch.device | str = "cpu") -> float:
    """Upper bound of the spectral radius of a kernel without negative entries.

    ``ρ(K) ≤ max_i (K v)_i / v_i`` for every v > 0 (Collatz-Wielandt). v comes from a few power iterations
    of K + I, which keep it positive. Source: Horn & Johnson, *Matrix Analysis*, 2nd ed. 2013, theorem
    8.1.26.
    """
    batch, size = kernel.shape
    v = torch.ones(batch, size, 1, dtype=torch.float64, device=device)
    bound = float("inf")
    for _ in range(POWER_STEPS):
        image = kernel @ v
        if image.numel() == 0:
            return 0.0
        bound = min(bound, float((image / v).amax()))
        v = image + v
        v = (v / v.amax(1, keepdim=True)).clamp(min=1e-12)  # any positive v gives a bound
    return bound * (1 + 1e-6)  # margin for the float32 rounding of the kernel


def _least_eigenvalue(kernel: Any, radius: float) -> float:
    """Lower bound of the eigenvalues: 0 for a Gaussian matrix; those of a lattice may be negative."""
    if getattr(kernel, "is_positive_semidefinite", False):
        return 0.0
    if not isinstance(kernel, GaussianKernel) or not isinstance(kernel.operator, Exact | Separable):
        return -radius
    if kernel.self_term is None or kernel.self_term.numel() == 0:
        return 0.0
    diagonal = kernel.self_term.detach()
    for scale in (kernel.pre, kernel.post):
        diagonal = diagonal if scale is None else diagonal * scale.detach()
    return -float(diagonal.amax())
