# SPDX-License-Identifier: MIT
"""Stops a training run at the first number that is not finite, and names its origin."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


class NotFinite(ValueError):
    """NaN or infinity in a training run.

    Attributes:
        culprit: "data", "parameter", "unary", "CRF", "loss" or "gradient".
    """

    def __init__(self, culprit: str, what: str, where: str, remedy: str) -> None:
        self.culprit = culprit
        super().__init__(
            f"{culprit}: expected finite numbers, got NaN or infinity in {what}, {where}; {remedy}"
        )


def finite(values: Tensor) -> bool:
    # The sum is NaN or infinite if any value is, and needs no memory; only an overflow needs the second test.
    total = values.detach().sum(dtype=torch.float32 if values.dtype != torch.float64 else None)
    return bool(torch.isfinite(total)) or bool(torch.isfinite(values.detach()).all())


class Guard:
    """Checks one training step in the order of computation.

    Args:
        parameters: (name, parameter) of the whole model.
        num_labels: L; truths must be below it, or 255.
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], num_labels: int) -> None:
        self._parameters = list(parameters)
        self._labels = num_labels

    def data(self, ids: Sequence[str], image: Tensor, labels: Tensor, where: str) -> None:
        """Raises NotFinite for a picture with NaN or infinity, ValueError for labels out of range."""
        if not finite(image):
            bad = [name for name, picture in zip(ids, image, strict=True) if not finite(picture)]
            raise NotFinite("data", f"picture {', '.join(bad)}", where, "repair or remove it")
        top = labels.masked_fill(labels == 255, 0)
        if int(top.max()) >= self._labels or int(top.min()) < 0:
            raise ValueError(
                f"labels: expected 0..{self._labels - 1} or 255, got {int(top.max())}, {where}, in one of "
                f"{', '.join(ids)}; correct the mask"
            )

    def output(self, part: str, values: Tensor, ids: Sequence[str], where: str) -> None:
        """Check the "unary", the "CRF" or the "loss"; if a parameter is not finite, it is named instead."""
        if finite(values):
            return
        self.parameters(where)
        bad = [n for n, v in zip(ids, values, strict=True) if not finite(v)] if values.ndim else list(ids)
        remedies = {
            "unary": "lower the network's rates or clip the gradient",
            "CRF": "lower rates.crf_theta and rates.crf_weights",
            "loss": "lower the rates; with loss: sum and precision 16, use mean or bf16",
        }
        raise NotFinite(part, f"the {part} of {', '.join(bad)}", where, remedies[part])

    def parameters(self, where: str, part: str = "") -> None:
        """Raises NotFinite for the first non-finite parameter whose name begins with `part`."""
        for name, parameter in self._parameters:
            if name.startswith(part) and not finite(parameter):
                raise NotFinite(
                    "parameter", name, where, f"lower the rate of {_kind(name)} or clip the gradient"
                )

    def gradients(self, ids: Sequence[str], where: str) -> None:
        """Check all gradients after the backward pass: a step with NaN would destroy the parameter."""
        for name, parameter in self._parameters:
            if parameter.grad is not None and not finite(parameter.grad):
                raise NotFinite(
                    "gradient", f"the gradient of {name} after {', '.join(ids)}", where,
                    f"lower the rate of {_kind(name)}, or freeze it (rate 0) to see whether it is the cause",
                )  # fmt: skip


def _kind(name: str) -> str:
    return "the CRF (rates.crf_*)" if name.startswith("crf.") else "the network"
