# SPDX-License-Identifier: MIT
"""A validated inference problem: everything that mean field depends on, for any backend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crfrnn.crf import validate
from crfrnn.crf.iteration import ACTIVATIONS, Iteration, Kernel, without_padding
from crfrnn.lattice.validate import check_choice

# The logit of a clamped label; all others are 0. Its softmax rounds to exactly 1, also in float64.
CLAMPED_LOGIT = 100.0
# Default δ without gradients: marginals change by at most 1e-3 (docs/engine.md).
IN_PLAY = 0.005


@dataclass(frozen=True, eq=False)
class Problem:
    """What an inference computes: x ← (1 - η) x + η (U - μ Σ_m W_m (K_m Q)), T times from the start.

    `of` validates all parts, so shapes, types and devices can be relied on afterwards. `check_values` rejects
    NaN and infinity; a backend may do this check itself after queueing its work.
    """

    given: Tensor  # Float[B, L, *spatial], the unary in the caller's dtype
    unary: Tensor  # U, the same in the computing dtype: float64 for float64, else float32
    kernels: tuple[Kernel, ...]
    weights: tuple[Tensor, ...]  # W_m, each [], [L] or [L, L]
    compatibility: Tensor  # μ, [L, L]
    iterations: int
    mask: Tensor | None = None  # Bool[B, *spatial], True = valid
    clamp: Tensor | None = None  # Int64[B, *spatial], -1 = free
    activation: str = "softmax"
    damping: float = 1.0  # η
    initial: Tensor | None = None  # None: the start is the unary
    in_play: float = 0.0  # δ

    @staticmethod
    def of(
        unary: Tensor,
        kernels: Sequence[Kernel],
        weights: Sequence[Tensor | float],
        compatibility: Tensor,
        iterations: int = 0,
        *,
        mask: Tensor | None = None,
        clamp: Any = None,
        activation: str = "softmax",
        damping: float = 1.0,
        initial: Any = None,
        in_play: Any = 0.0,
    ) -> Problem:
        """Build from the arguments of `mean_field`; `check_unary` and `check_mask` were already applied."""
        iterations = validate.check_count("iterations", iterations, 0, "0 returns the unary")
        clamp = validate.check_clamp(clamp, unary, mask)
        check_choice("activation", activation, ACTIVATIONS)
        if activation == "sigmoid" and clamp is not None:
            raise ValueError(
                "clamp: expected None with activation='sigmoid', whose labels overlap, got a label per "
                "pixel; say what is known in the unary: 100 where a label is present, -100 where it is absent"
            )
        logits = unary if unary.dtype == torch.float64 else unary.float()
        pixels = math.prod(unary.shape[2:])
        kernels, checked = validate.check_kernels(kernels, weights, logits, pixels)
        compatibility = validate.check_weight("compatibility", compatibility, logits, matrix_only=True)
        damping = validate.check_damping(damping)
        if initial is not None:
            remedy = "resize it to the picture first"
            initial = validate.check_like_unary("initial", initial, unary, remedy).to(logits.dtype)
        return Problem(
            unary,
            logits,
            kernels,
            checked,
            compatibility,
            iterations,
            mask,
            clamp,
            activation,
            damping,
            initial,
            validate.check_in_play(in_play, activation) or 0.0,
        )

    def check_values(self) -> None:
        """Reject NaN and infinity, in the order of the arguments; masked pixels may hold any value."""
        valid = None if self.mask is None else self.mask.unsqueeze(1)
        validate.check_finite("unary", self.unary, validate.FINITE_UNARY, valid)
        self.check_weight_values()
        if self.initial is not None:
            validate.check_finite(
                "initial", self.initial, "start from the unary instead: initial=None", valid
            )

    def check_weight_values(self) -> None:
        """Reject NaN and infinity in weights and compatibility."""
        for index, weight in enumerate(self.weights):
            validate.check_finite(f"weights[{index}]", weight, validate.FINITE_WEIGHT)
        validate.check_finite("compatibility", self.compatibility, validate.FINITE_WEIGHT)

    def transforms(self) -> Tensor:
        """A_m = -μ W_m, Float[kernels, L, L]."""
        mu = self.compatibility
        return torch.stack([-(mu * w if w.ndim < 2 else mu @ w) for w in self.weights])

    def iteration(self) -> Iteration:
        """The iteration in plain torch, over pixels × labels."""
        return Iteration.over(
            _rows(self.unary), self.kernels, self.weights, self.compatibility,
            None if self.mask is None else self.mask.flatten(1),
            None if self.clamp is None else self.clamp.flatten(1),
            self.activation, self.damping, self.in_play,
        )  # fmt: skip

    def start(self, iteration: Iteration) -> Tensor:
        """x before the first iteration, [B, N, L]."""
        if self.initial is None:
            return iteration.unary
        return without_padding(_rows(self.initial), iteration.valid)

    def result(self, logits: Tensor) -> Tensor:
        """The final x, [B, L, *spatial], as returned: 100 at clamped labels, padding unchanged."""
        if self.clamp is not None:
            labels = torch.arange(logits.shape[1], device=logits.device).view(-1, *[1] * (logits.ndim - 2))
            known = self.clamp.unsqueeze(1)
            logits = torch.where(known >= 0, CLAMPED_LOGIT * (known == labels), logits)
        logits = logits.to(self.given.dtype)
        if self.mask is not None:
            logits = torch.where(self.mask.unsqueeze(1), logits, self.given)
        return logits.contiguous()


def _rows(planes: Tensor) -> Tensor:
    """[B, L, *spatial] to [B, N, L]: the labels of one pixel are contiguous."""
    return planes.flatten(2).mT.contiguous()
