# SPDX-License-Identifier: MIT
"""Launching Triton kernels: device, number of programs, and a launcher that avoids Triton's look-up."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"  # kernels run in Python, on the CPU
# Passed at every launch, because Triton 3.10 reverses its default. `build._embed` is the exception.
FUSED = {"enable_fp_fusion": True}
# The order of a launcher's arguments, unchanged since then. With an older Triton every launch does a look-up.
DIRECT = not INTERPRETED and tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 3)


class Launcher:
    """A kernel with its constants, for many similar launches: Triton looks it up only for the first.

    A look-up takes six times as long as a launch, so a loop of small kernels is limited by Python, not by
    the GPU (benchmarks/gpu_host.py). Launches are similar if they share what Triton specialises on:
    types, which tensors begin at a multiple of 16 bytes, and which numbers are 1 or multiples of 16. Each
    combination of the arguments at the positions `loose` is looked up once. A launcher is used only within
    one call of an operator: one device, one stream.
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
    """What Triton may specialise on: type and alignment of a tensor, the value of a number."""
    return (argument.dtype, argument.data_ptr() % 16) if isinstance(argument, Tensor) else argument


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Make the tensor's device current: Triton launches on the current device and its current stream."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def block(fast: int, count: int) -> int:
    """Rows per program: `fast` on a GPU; more in the interpreter, whose time grows with the programs."""
    return min(power_of_2(count), 8192) if INTERPRETED else fast


def ceil_div(count: int, each: int) -> int:
    """The number of programs of size `each` for `count`; triton.cdiv is typed for use in kernels."""
    return -(-count // each)


def power_of_2(count: int) -> int:
    """The smallest power of two that is at least `count`, as required for the side of a tile."""
    return 1 << max(count - 1, 0).bit_length()
