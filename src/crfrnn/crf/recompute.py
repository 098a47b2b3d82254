# SPDX-License-Identifier: MIT
"""A step of a recurrent network that saves only its input and is recomputed in the backward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


def recomputed(step: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``step(x)``; its intermediate tensors are recomputed in the backward pass instead of being saved.

    Like torch.utils.checkpoint, which however imports the compiler at its first call (three to six seconds).
    `step` must be deterministic. Differentiable any number of times.

    >>> x = torch.tensor([2.0], requires_grad=True)
    >>> torch.autograd.grad(recomputed(lambda x: x.square(), x), x)
    (tensor([4.]),)
    """
    count, kept = 0, dict[int, Tensor]()

    def pack(_: Tensor) -> int:
        nonlocal count
        count += 1
        return count - 1

    def unpack(index: int) -> Tensor:
        # Each tensor is returned once per backward pass and then released.
        if index not in kept:
            again: list[Tensor] = []
            leaf = x.detach().requires_grad_(x.requires_grad)
            with torch.enable_grad(), saved_tensors_hooks(lambda t: again.append(t.detach()), lambda _: leaf):
                step(leaf)
            if len(again) != count:
                raise RuntimeError(
                    f"step: expected it to keep {count} tensors as in the forward pass, got {len(again)}; "
                    "do not change modules, modes or weights between the two passes"
                )
            kept.update(enumerate(again))
        return kept.pop(index)

    with saved_tensors_hooks(pack, unpack):
        return step(x)
