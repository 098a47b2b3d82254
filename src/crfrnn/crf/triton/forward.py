# SPDX-License-Identifier: MIT
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportMissingImports=false
"""All iterations of mean field on the GPU, for up to 256 labels.

x ← (1 - η) x + η (U + Σ_m A_m K_m softmax(x)), K_m = post · (filter · pre). For a lattice, `pre` is
multiplied into the barycentric weights once per call. Sums run in fixed orders, so every run gives the same
bits. The loop never synchronises with the device, so a CUDA graph can capture it. The exception is δ > 0: the
number of labels in play is read before each iteration, and only their columns are filtered.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from crfrnn.crf.triton.band import SECTOR, Band
from crfrnn.crf.triton.kernels import start_kernel, update_kernel
from crfrnn.crf.triton.problem import LatticeKernel, Problem, SeparableKernel, given, times
from crfrnn.lattice.triton.filter import Passes
from crfrnn.lattice.triton.launch import Launcher, ceil_div, on_device, power_of_2

# At most so many labels that send, of at most so many labels, are sliced in registers; others by a separate
# kernel, because registers would spill (tests/gpu/triton_targets.py).
SLICED_IN_REGISTERS, MANY_LABELS = 32, 128


class Messages(NamedTuple):
    """Messages of an iteration's kernels."""

    lattice: Tensor | None  # rows of the first lattice: of its vertices, or sliced, of pixels
    dense: Tensor | None  # rows of the first separable kernel, without `post`
    extra: Tensor | None  # the sum of all others, with compatibility applied


class Plan:
    """The kernels over all iterations; in each iteration the first of each kind is fused into the update."""

    def __init__(self, problem: Problem, stride: int, programs: int, constants: dict[str, Any]) -> None:
        kernels = problem.kernels
        kinds = [type(kernel) for kernel in kernels]
        self.problem, self.stride, self.programs, self.constants = problem, stride, programs, constants
        self.lattice, self.dense = (
            kinds.index(kind) if kind in kinds else None for kind in (LatticeKernel, SeparableKernel)
        )
        self.inward = {m: k.inward(k.pre) for m, k in enumerate(kernels) if isinstance(k, LatticeKernel)}
        self._outward: dict[int, Tensor] = {}
        self._senders: dict[int, Senders] = {}

    def outward(self, m: int) -> Tensor:
        """Slice weights of the lattice kernel m, with its per-pixel factors."""
        if m not in self._outward:
            kernel = self.problem.kernels[m]
            assert isinstance(kernel, LatticeKernel)
            self._outward[m] = kernel.scaled(kernel.post)
        return self._outward[m]

    def in_play(self, q: Tensor) -> tuple[Senders, Tensor, Tensor]:
        """The columns of the marginals [P, stride] that are sent, Float[P, ≥ S], and those of A, [K, L, S].

        During the capture of a CUDA graph all labels send, because a graph cannot hold sizes that depend on
        values.
        """
        problem, labels = self.problem, self.problem.labels
        capturing = q.is_cuda and torch.cuda.is_current_stream_capturing()
        if not problem.in_play or not len(q) or capturing:
            return self._sending(labels), q, problem.transform
        playing = (q[:, :labels].amax(0) >= problem.in_play).nonzero().flatten()  # waits for the device
        senders = self._sending(len(playing))
        if len(playing) == labels:
            return senders, q, problem.transform
        sent = pad(q.index_select(1, playing), (0, senders.stride - len(playing)))
        return senders, sent, problem.transform.index_select(2, playing)

    def _sending(self, count: int) -> Senders:
        if count not in self._senders:
            self._senders[count] = Senders(self, count)
        return self._senders[count]


class Senders:
    """Message passing and update of an iteration in which `count` labels send."""

    def __init__(self, plan: Plan, count: int) -> None:
        problem, labels = plan.problem, plan.problem.labels
        self._plan, self.count = plan, count
        self.stride = plan.stride if count == labels else ceil_div(count, SECTOR) * SECTOR
        self._ways = [
            Passes(k.structure, count, k.weights)
            if isinstance(k, LatticeKernel)
            else Band(problem.grid, problem.points, k.theta, self.stride)
            for k in (problem.kernels if count else ())
        ]
        lattice, dense = (plan.lattice, plan.dense) if count else (None, None)
        self._sliced: LatticeKernel | None = None  # the lattice, if it is sliced in registers
        self._lattice_stride = count
        if lattice is not None and count <= SLICED_IN_REGISTERS and labels <= MANY_LABELS:
            kernel, way = problem.kernels[lattice], self._ways[lattice]
            assert isinstance(kernel, LatticeKernel) and isinstance(way, Passes)
            self._sliced, self._lattice_stride = kernel, way.width
        self._post = None if dense is None else problem.kernels[dense].post
        own = self._sliced
        self._constants = {
            "SIZE": 1 if own is None else own.structure.size,
            "LATTICE": lattice is not None,
            "SLICED": own is None,
            "LATTICE_SCALED": own is not None and own.post is not None,
            "DENSE": dense is not None,
            "DENSE_SCALED": self._post is not None,
            "EXTRA": len(self._ways) > sum(m is not None for m in (lattice, dense)),
            "SENDERS": max(power_of_2(count), 16),
            **plan.constants,
        }
        self._updates: dict[bool, Launcher] = {}

    def messages(self, q: Tensor, transform: Tensor) -> Messages:
        """Messages of marginals [P, stride]; A is [K, L, count]."""
        plan = self._plan
        rows = message = extra = None
        for m, way in enumerate(self._ways):
            kernel = plan.problem.kernels[m]
            if isinstance(way, Passes):
                part = way.spread(q[:, : self.count], plan.inward[m], False)
                if m != plan.lattice or self._sliced is None:
                    part = way.gather(part, plan.outward(m))
                if m == plan.lattice:
                    rows = part
                    continue
            else:
                part = way(q, kernel.pre)
                if m == plan.dense:
                    message = part
                    continue
                part = times(part[:, : self.count], kernel.post)
            extra = part.new_zeros(len(q), plan.stride) if extra is None else extra
            extra[:, : plan.problem.labels] += part @ transform[m].mT
        return Messages(rows, message, extra)

    def update(
        self, unary: Tensor, logits: Tensor, after: Tensor, messages: Messages, transform: Tensor, last: bool
    ) -> None:
        """Write x to `logits` if needed, and Q to `after` unless `last`."""
        plan, own = self._plan, self._sliced
        if last not in self._updates:
            damped = plan.problem.damping != 1
            self._updates[last] = Launcher(
                update_kernel, 2, DAMPED=damped, WRITE_X=last or damped, WRITE_Q=not last, **self._constants
            )
        slices, vertices = (unary, unary, unary), 0  # weights, corners and factors of the pixels
        if own is not None:
            slices = (own.weights, own.structure.corner, given(own.post, unary))
            vertices = own.structure.vertices
        lattice_transform, dense_transform = (transform[m or 0] for m in (plan.lattice, plan.dense))
        problem = plan.problem
        self._updates[last](
            plan.programs, 1, unary, logits, after, given(messages.extra, unary),
            given(messages.lattice, unary), *slices, lattice_transform, given(messages.dense, unary),
            given(self._post, unary), dense_transform, given(problem.mask, unary),
            given(problem.clamp, unary), unary.shape[2], problem.labels, self.count, plan.stride,
            self.stride, self._lattice_stride, vertices, problem.points, problem.damping,
        )  # fmt: skip


def forward(
    problem: Problem, unary: Tensor, initial: Tensor | None, iterations: int, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Float[B, L, N] -> logits, Q of each iteration Float[T, P, L] (empty unless `keep`), all finite."""
    _, labels, points = unary.shape
    total = problem.points
    stride = labels if keep else ceil_div(labels, SECTOR) * SECTOR  # the saved Q is not padded
    first = unary if initial is None else initial
    logits = first.clone()
    marginals = unary.new_empty(iterations if keep else 0, total, labels)
    room = None if keep and iterations else unary.new_empty(total, stride)
    programs, constants = problem.launch()
    constants |= {"PADDED": stride % SECTOR == 0, "SECTOR": SECTOR}
    bad = torch.empty(programs, dtype=torch.int32, device=unary.device)
    held = (given(problem.mask, unary), given(problem.clamp, unary))
    with on_device(unary):
        plan = Plan(problem, stride, programs, constants)
        start = marginals[0] if room is None else room
        Launcher(start_kernel, **constants)(
            programs, 1, first, start, bad, *held, points, labels, stride, total
        )
        for t in range(iterations):
            last = t + 1 == iterations
            q = marginals[t] if room is None else room
            after = q if last else marginals[t + 1] if room is None else room
            senders, sent, transform = plan.in_play(q)
            messages = senders.messages(sent, transform)
            senders.update(unary, logits, after, messages, transform, last)
            del messages, sent  # free memory for the next iteration
        return logits, marginals, _finite(problem, bad, unary if initial is not None else None)


def _finite(problem: Problem, bad: Tensor, unary: Tensor | None) -> Tensor:
    """Bool[]: the start and, if different, the unary are finite at all valid pixels."""
    finite = bad.amax() == 0
    if unary is None:
        return finite
    fine = torch.isfinite(unary)
    if problem.mask is not None:
        fine |= problem.mask.view(len(unary), 1, -1) == 0
    return finite & fine.all()
