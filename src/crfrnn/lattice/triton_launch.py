# SPDX-License-Identifier: MIT
"""What every Triton kernel and its operator need to know: where it runs, how much a program takes, vmap."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"  # kernels run in Python, on the CPU
# Said at every launch: Triton 3.10 turns its default round. `triton_build._embed` is the exception.
FUSED = {"enable_fp_fusion": True}


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device and its current stream: make it the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def block(fast: int, count: int) -> int:
    """Rows a program works on: `fast` on a GPU; interpreted, time follows the number of programs."""
    return min(power_of_2(count), 8192) if INTERPRETED else fast


def ceil_div(count: int, each: int) -> int:
    """Programs of `each` for `count`; triton.cdiv is typed for kernels, not for who calls them."""
    return -(-count // each)


def power_of_2(count: int) -> int:
    """The least power of two that is no less than `count`: what a tile's side has to be."""
    return 1 << max(count - 1, 0).bit_length()


def front(tensor: Tensor, dimension: int | None, samples: int) -> Tensor:
    """A batching rule's argument with the samples of vmap first, repeated where all share it."""
    return tensor.expand(samples, *tensor.shape) if dimension is None else tensor.movedim(dimension, 0)
