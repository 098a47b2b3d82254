# SPDX-License-Identifier: MIT
"""The memory of mean field on a GPU, counted without one: bytes of all tensors, in planes of the unary.

    python benchmarks/gpu_memory.py          # needs Triton beside torch, no GPU

500 x 500 pixels, 21 labels, T = 5, a lattice of the size of scikit-image's astronaut under "demo". Kernels
are launched by a driver that does nothing (benchmarks/gpu_host.py); tensors are on the CPU.
"""

from __future__ import annotations

import gc
import sys
import weakref
from typing import Any

import torch
import triton
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from crfrnn.crf.triton.backward import backward
from crfrnn.crf.triton.forward import forward
from crfrnn.crf.triton.problem import LatticeKernel
from gpu_host import LABELS, Counting, gradients, problem

SIDE, ITERATIONS = 500, 5
PIECES = (176_148, 150_501, 150_340)  # rows after the splat's passes; the last number is that of the vertices


class Peak(TorchDispatchMode):
    """Counts the bytes of all storages that operations create while it is active, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.peak = 0

    @property
    def held(self) -> int:
        return sum(self.live.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = [
            x for x in tree_leaves((args, kwargs)) if isinstance(x, (torch.Tensor, torch.UntypedStorage))
        ]
        given = {(x.untyped_storage() if isinstance(x, torch.Tensor) else x)._cdata for x in leaves}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage(), given)
        return out

    def _count(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        key = storage._cdata
        if key in self.live or key in given:
            return
        self.live[key] = storage.nbytes()
        weakref.finalize(storage, self.live.pop, key, None)
        if self.held > self.peak:
            gc.collect()  # the interpreter leaves reference cycles that keep its arguments alive
            self.peak = max(self.peak, self.held)


def main() -> int:
    triton.runtime.driver.set_active(Counting())
    task = problem(SIDE, PIECES)
    unary, grad = (torch.randn(1, LABELS, SIDE * SIDE) for _ in range(2))
    plane = unary.nbytes
    (lattice,) = (kernel for kernel in task.kernels if isinstance(kernel, LatticeKernel))
    tables = (
        sum(t.nbytes for t in (*lattice.structure[:4], *lattice.structure.bounds, lattice.weights)) / plane
    )
    values = LABELS * 4 * (lattice.structure.vertices + SIDE * SIDE) / plane
    print(f"tables of the lattice {tables:.2f}; permitted in all {2 + ITERATIONS + 1.5 * values:.2f}")
    marginals, kept = torch.empty(0), 0.0
    for name, bandwidths in (("forward", None), ("backward", False), ("backward, bandwidths too", True)):
        gc.collect()
        with Peak() as peak:
            if bandwidths is None:
                out = forward(task, unary, None, ITERATIONS, True)
            else:
                out = backward(task, grad, marginals, gradients(task, bandwidths))
        held = kept + peak.peak / plane
        print(f"{name:26} {held:6.2f}, with tables {held + tables:6.2f}")
        if bandwidths is None:
            marginals, kept = out[1], peak.held / plane
        del out
    return 0


if __name__ == "__main__":
    sys.exit(main())
