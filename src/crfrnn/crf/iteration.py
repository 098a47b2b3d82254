# SPDX-License-Identifier: MIT
"""One mean-field iteration, the readable reference: Algorithm 1 of Zheng et al., ICCV 2015."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from crfrnn.lattice.validate import in_functorch

ACTIVATIONS = ("softmax", "relu", "sigmoid")


class Kernel(Protocol):
    """Any linear operator over pixels: Float[B, N, C] -> Float[B, N, C]."""

    def __matmul__(self, values: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class Iteration:
    """One iteration x ↦ f(x) with everything but x fixed; pixels in rows, labels in columns."""

    unary: Tensor  # [B, N, L], 0 at masked pixels
    kernels: tuple[Kernel, ...]
    weights: tuple[Tensor, ...]  # each [], [L] or [L, L]
    compatibility: Tensor  # [L, L]
    activation: str
    damping: float
    valid: Tensor | None  # Bool[B, N, 1]
    known: Tensor | None  # Bool[B, N, 1], the clamped pixels
    evidence: Tensor | None  # [B, N, L], their labels one-hot
    in_play: float = 0.0  # δ

    @staticmethod
    def over(
        rows: Tensor,
        kernels: Sequence[Kernel],
        weights: Sequence[Tensor],
        compatibility: Tensor,
        mask: Tensor | None = None,
        clamp: Tensor | None = None,
        activation: str = "softmax",
        damping: float = 1.0,
        in_play: float = 0.0,
    ) -> Iteration:
        """The iteration over a unary in rows, [B, N, L], mask Bool[B, N] and clamp Int[B, N], -1 = free."""
        valid = None if mask is None else mask.unsqueeze(-1)
        rows = without_padding(rows, valid)
        known = evidence = None
        if clamp is not None:
            labels = clamp.unsqueeze(-1)
            known = labels >= 0 if valid is None else (labels >= 0) & valid
            evidence = (labels == torch.arange(rows.shape[2], device=rows.device)).to(rows.dtype)
        return Iteration(
            rows, tuple(kernels), tuple(weights), compatibility, activation, damping, valid, known, evidence,
            in_play,
        )  # fmt: skip

    def marginals(self, logits: Tensor) -> Tensor:
        """Normalising: Q = softmax(x) or `activation`; one-hot at clamped pixels, 0 at masked ones."""
        q = _NORMALISING[self.activation](logits)
        if self.known is not None and self.evidence is not None:
            q = torch.where(self.known, self.evidence, q)
        return q if self.valid is None else torch.where(self.valid, q, torch.zeros_like(q))

    def sent(self, q: Tensor) -> Tensor:
        """Q of the labels in play, whose marginal is at least δ at some pixel of the batch; 0 for the others.

        The set is treated as constant in the derivative.
        """
        if not self.in_play or not q.numel():
            return q
        playing = q.detach().amax((0, 1)) >= self.in_play
        return torch.where(playing, q, torch.zeros_like(q))

    def pairwise(self, q: Tensor) -> Tensor:
        """Message passing, weighting, compatibility transform: μ Σ_m W_m (K_m Q)."""
        if self.activation == "sigmoid":
            q = 2 * q - 1  # per label, the message of the foreground minus that of the background
            q = q if self.valid is None else torch.where(self.valid, q, torch.zeros_like(q))
        message = torch.zeros_like(q)
        for kernel, weight in zip(self.kernels, self.weights, strict=True):
            # kernel @ q; torch.compile cannot trace the operator of a plain object.
            filtered = kernel.__matmul__(q).to(q.dtype)  # kernels may differ in dtype
            message = message + (filtered @ weight.mT if weight.ndim == 2 else filtered * weight)
        return message @ self.compatibility.mT

    def target(self, q: Tensor) -> Tensor:
        """Adding the unary: the logits computed from marginals Q."""
        return self.unary - self.pairwise(self.sent(q))

    def __call__(self, logits: Tensor) -> Tensor:
        """The damped step: the proximal step on natural parameters."""
        target = self.target(self.marginals(logits))
        return target if self.damping == 1.0 else torch.lerp(logits, target, self.damping)

    def change(self, before: Tensor, after: Tensor) -> float:
        """max|ΔQ| between two iterates; 0 for an empty batch."""
        with torch.no_grad():
            difference = self.marginals(after) - self.marginals(before)
            most = difference.abs().amax() if difference.numel() else 0.0
        try:
            return float(most)
        except RuntimeError as error:
            if not in_functorch():
                raise
            raise ValueError(
                "tolerance: expected None under torch.vmap, where samples cannot stop at different "
                "iterations; set only iterations="
            ) from error


def without_padding(rows: Tensor, valid: Tensor | None) -> Tensor:
    """0 at masked pixels: their values, which may be NaN, must not reach messages or gradients."""
    return rows if valid is None else torch.where(valid, rows, torch.zeros_like(rows))


def _relu_normalised(logits: Tensor) -> Tensor:
    positive = torch.relu(logits)
    total = positive.sum(-1, keepdim=True)
    alive = total > 0
    # The inner `where` keeps 0/0 out of the backward pass as well.
    share = positive / torch.where(alive, total, torch.ones_like(total))
    return torch.where(alive, share, torch.full_like(share, 1 / logits.shape[-1]))


def _softmax(logits: Tensor) -> Tensor:
    return torch.softmax(logits, -1)


_NORMALISING = {"softmax": _softmax, "relu": _relu_normalised, "sigmoid": torch.sigmoid}
