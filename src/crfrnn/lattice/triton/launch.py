# SPDX-License-Identifier: MIT
"""Launching Triton kernels: on which device, how many programs, and a launcher without Triton's look-up."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"  # kernels run in Python, on the CPU
# Given at every launch, because Triton 3.10 reverses its default. `build._embed` is the exception.
FUSED = {"enable_fp_fusion": True}
# The order of a launcher's arguments, the same since then. An older Triton looks kernels up every time.
DIRECT = not INTERPRETED and tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 3)


class Launcher:
    """A kernel with its constants, for many similar launches: Triton looks it up only at the first.

    Looking up takes Triton six times as long as launching, so that a loop of small kernels waits for Python
    and not for the GPU (benchmarks/gpu_host.py). Launches are similar where Triton compiles for the same
    types, the same tensors that begin at a multiple of 16 bytes, and the same numbers that are 1 or multiples
    of 16. Each combination of the arguments at the places `loose` is looked up once. A launcher lives no
    longer than one call of an operator: one device, one stream.
    """

    def __init__(self, kernel: Any, *loose: int, **constants: Any) -> None:
        self._kernel, self._loose, self._constants = kernel, loose, {**FUSED, **constants}
        self._known: dict[tuple[Any, ...], tuple[Callable[..., None], tuple[Any, ...], tuple[Any, ...]]] = {}

    def __call__(self, programs: int, across: int, *args: Any) -> None:
        """Launch a grid of `programs` × `across`."""
        kind = tuple([_kind(args[place]) for place in self._loose])
        known = self._known.get(kind)
        if known is not None:
            run, how, constants = known
            run(programs, across, 1, *how, *args, *constants)
            return
        compiled = self._kernel[(programs, across)](*args, **self._constants)
        if DIRECT:
            driver: Any = triton.runtime.driver.active
            stream = driver.get_current_stream(driver.get_current_device())
            how = (stream, compiled.function, compiled.packed_metadata, None, None, None)
            constants = tuple(self._constants[n] for n in self._kernel.arg_names if n in self._constants)
            self._known[kind] = (compiled.run, how, constants)


def _kind(argument: Any) -> Any:
    """What Triton may compile for: type and alignment of a tensor, a number itself."""
    return (argument.dtype, argument.data_ptr() % 16) if isinstance(argument, Tensor) else argument


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device and its current stream: make it the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def block(fast: int, count: int) -> int:
    """Rows of one program: `fast` on a GPU; in the interpreter time grows with the number of programs."""
    return min(power_of_2(count), 8192) if INTERPRETED else fast


def ceil_div(count: int, each: int) -> int:
    """The number of programs of `each` for `count`; triton.cdiv is typed for use in kernels."""
    return -(-count // each)


def power_of_2(count: int) -> int:
    """The least power of two that is at least `count`: what the side of a tile has to be."""
    return 1 << max(count - 1, 0).bit_length()
