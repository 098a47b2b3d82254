# SPDX-License-Identifier: MIT
"""A step of a recurrent network whose graph keeps its input alone and is made again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


def recomputed(step: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``step(x)``; what its operators would keep for the backward pass is computed again when it is needed.

    As torch.utils.checkpoint does, which imports the compiler at its first call (three to six seconds).
    `step` has to do the same in both passes. Differentiable any number of times.

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
        # Each is handed out once per backward pass, and not held any longer.
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
