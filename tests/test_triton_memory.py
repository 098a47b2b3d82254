# SPDX-License-Identifier: MIT
"""What the backward pass on the GPU holds at a time, counted in Triton's interpreter."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from conformance import LATTICES
from crfrnn import CRFRNN
from crfrnn.lattice import Lattice, lattice

pytest.importorskip("triton")
from crfrnn.crf import triton_backward, triton_ops

interpreted = pytest.mark.skipif("triton" not in LATTICES, reason="a GPU is here: no interpreter")


class Peak(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, from its beginning on, and their peak."""

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
            gc.collect()  # the interpreter leaves cycles that hold its arguments
            self.peak = max(self.peak, self.held)


@interpreted
@pytest.mark.parametrize("side, beta", [(16, 20.0), (40, 200.0)])  # many vertices a pixel; few
def test_backward_holds_two_sets_of_lattice_rows(
    side: int, beta: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside what it was given: g, dU and two sets of rows; or instead dQ, ĝ and a Gaussian's two planes."""
    monkeypatch.setattr(lattice, "choose_backend", lambda device: "triton")
    peaks: list[int] = []

    def counted(*args: Any) -> tuple[torch.Tensor, ...]:
        gc.collect()
        with Peak() as watch:
            out = triton_backward.backward(*args)
        peaks.append(watch.peak)
        return out

    monkeypatch.setattr(triton_ops, "backward", counted)
    labels = 24  # whole sectors: rows without padding
    crf = CRFRNN(labels, theta_alpha=side / 2, theta_beta=beta, theta_gamma=1.1, iterations=2)
    unary, image = torch.randn(1, labels, side, side), 255 * torch.rand(1, 3, side, side)
    (built,) = (k.operator for k in crf.kernels(image) if isinstance(k.operator, Lattice))
    out = crf(unary.requires_grad_(), image)
    torch.autograd.grad(out.square().sum(), [unary, *crf.parameters()])

    plane, rows = (
        unary.nbytes,
        4 * labels * max(len(table) for table in built.structure[4:]),
    )  # a pass may have more
    small = 5 * built.weights.nbytes + 2**16  # weights with factors and in the splat's order, their gradient
    assert 2 * plane + 1.5 * rows < peaks[0] < 2 * plane + max(2 * rows, 4 * plane) + small
