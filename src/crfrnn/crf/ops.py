# SPDX-License-Identifier: MIT
"""All iterations of mean field as one operator: schema, implementation, fake, derivative, and its backends.

All label mixing is folded into A_m = -μ W_m in advance, so an operator computes only
x ← (1 - η) x + η (U + Σ_m A_m K_m softmax(x)) and the gradients of U, the start, A_m and the parts of K_m.
The backward pass runs through all iterations in one call without a graph; `second_order` builds the graph
for higher derivatives.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor

from crfrnn.crf import second_order
from crfrnn.crf.parts import KernelGradient, Parts, take_apart
from crfrnn.crf.problem import Problem
from crfrnn.lattice import Lattice
from crfrnn.lattice import backend as lattices
from crfrnn.lattice.validate import needs_graph, readable

# Backends


class Backend(Protocol):
    """Extends `crfrnn.lattice.backend.Backend` by mean field; logits are planes [B, L, N]."""

    CHECKS_LATER: bool
    """Whether it checks for NaN and infinity after queueing its work, to synchronise with a GPU only once.

    Otherwise weights are checked before the call, and unary and start by `mean_field`.
    """

    def can(self, problem: Problem) -> str | None:
        """Why the backend cannot run the problem, or None if it can."""
        ...

    def kept(self, unary: Tensor, iterations: int) -> tuple[int, ...]:
        """The shape of the tensor saved for the backward pass: Q of each iteration."""
        ...

    def mean_field(
        self, parts: Parts, unary: Tensor, initial: Tensor | None, keep: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, the saved tensor (empty unless `keep`), and whether all numbers are finite, Bool[]."""
        ...

    def gradients(
        self, parts: Parts, grad: Tensor, kept: Tensor, started: bool, kernels: Sequence[KernelGradient]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of unary, start (empty unless `started`) and A; the kernels' are added in place."""
        ...


MODULES = {"cpu": "crfrnn.crf.cpu", "triton": "crfrnn.crf.triton.backend"}
_imported: dict[str, Backend] = {}

if TYPE_CHECKING:  # checks every module against the protocol
    from crfrnn.crf import cpu
    from crfrnn.crf.triton import backend as triton

    _all: tuple[Backend, ...] = (cpu, triton)


def _backend(name: str) -> Backend:
    if name not in _imported:
        _imported[name] = cast(Backend, importlib.import_module(MODULES[name]))
    return _imported[name]


for _name in MODULES:
    if lattices.is_imported(_name):  # torch.compile cannot trace an import
        _backend(_name)


def _chosen(problem: Problem) -> str:
    """The backend of the first lattice; without a lattice, the default of the device."""
    for kernel in problem.kernels:
        operator = getattr(kernel, "operator", None)
        if isinstance(operator, Lattice):
            return operator.backend
    return lattices.BY_DEVICE.get(problem.unary.device.type, "")


def can(problem: Problem) -> str | None:
    """Why no operator can run the whole problem, or None if one can."""
    name = _chosen(problem)
    if name not in MODULES:
        return f"kernels: no operator for mean field on the backend {name!r}"
    reason = lattices.why_not(name, problem.unary.device) or _backend(name).can(problem)
    if reason is None and problem.in_play and torch.is_grad_enabled():
        inputs = [problem.unary, problem.initial, problem.compatibility, *problem.weights]
        inputs += [t for group in take_apart(problem) for t in group]
        if any(t is not None and t.requires_grad for t in inputs):
            return "in_play: derivatives, which run in plain torch"
    return reason


_checking: ContextVar[bool] = ContextVar("crfrnn_checking", default=True)


@contextmanager
def unchecked() -> Iterator[None]:
    """Disable the checks for NaN and infinity on a GPU, so that a call does not synchronise at its end."""
    token = _checking.set(False)
    try:
        yield
    finally:
        _checking.reset(token)


def run(problem: Problem) -> Tensor:
    """x after the last iteration, Float[B, L, *spatial], of a problem that `can` accepts."""
    unary, initial, mask, clamp = problem.unary, problem.initial, problem.mask, problem.clamp
    name = _chosen(problem)
    later = _backend(name).CHECKS_LATER
    transform = problem.transforms()
    if not later and not _is_finite(transform):
        problem.check_values()
    groups = take_apart(problem)
    inputs = [unary, transform, *(t for group in groups for t in group)]
    inputs += [] if initial is None else [initial]
    keep = problem.iterations > 0 and torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    logits, _, finite = torch.ops.crfrnn.mean_field(
        name,
        unary.flatten(2),
        None if initial is None else initial.flatten(2),
        transform,
        *groups,
        list(unary.shape[2:]),
        None if mask is None else mask.flatten(1),
        None if clamp is None else clamp.flatten(1).to(torch.int32),
        problem.iterations,
        problem.damping,
        keep,
        problem.in_play,
    )
    # `readable` first: torch 2.11 cannot trace a context variable.
    if later and readable(finite) and _checking.get() and not bool(finite):
        problem.check_values()
    return logits.view(unary.shape)


def single(unary: Tensor) -> Tensor:
    """The unary in float32, on a CPU in the core's memory if it is converted; float64 as it is."""
    if unary.dtype in (torch.float32, torch.float64) or unary.device.type != "cpu":
        return unary if unary.dtype == torch.float64 else unary.float()
    from crfrnn.crf import cpu  # late, as all backends

    return cpu.memory(unary).copy_(unary)


def can_label(problem: Problem) -> bool:
    """Whether `labels` can run the problem; only the native core has such an operator."""
    return _chosen(problem) == "cpu" and can(problem) is None


def labels(problem: Problem) -> Tensor:
    """The label of the largest logit after the last iteration, Int16[B, *spatial]; without a derivative."""
    from crfrnn.crf import cpu  # late, as all backends

    transform = problem.transforms()
    if not _is_finite(transform):
        problem.check_values()
    unary, mask = problem.unary, problem.mask
    parts = Parts.of(
        transform, *take_apart(problem), unary.shape[2:], None if mask is None else mask.flatten(1), None,
        problem.iterations, problem.damping, problem.in_play,
    )  # fmt: skip
    return cpu.labels(parts, unary.flatten(2).contiguous()).view(len(unary), *unary.shape[2:])


def _is_finite(tensor: Tensor) -> bool:
    """True if the sum, and therefore every term, is finite, or if values cannot be read."""
    return not readable(tensor) or math.isfinite(float(tensor.detach().sum()))


# Schemas. One entry per kernel, with a lattice's number of tables; an empty tensor is an absent part.

_library = torch.library.Library("crfrnn", "FRAGMENT")
_PARTS = (
    "Tensor transform, Tensor[] weights, Tensor[] tables, Tensor[] thetas, Tensor[] pres, Tensor[] posts,"
    " SymInt[] grid, Tensor? mask, Tensor? clamp, int iterations, float damping"
)
_RESULTS = "(Tensor, Tensor, Tensor)"
_library.define(
    f"mean_field(str backend, Tensor unary, Tensor? initial, {_PARTS}, bool keep, float in_play)"
    f" -> {_RESULTS}"
)
_library.define(
    f"mean_field_backward(str backend, Tensor grad, Tensor kept, {_PARTS}, bool started, bool[] wanted)"
    " -> Tensor[]"
)


# Implementations, the same for every device, because Triton's interpreter runs on the CPU.


def _forward(backend, unary, initial, *rest):
    *parts, keep, in_play = rest
    initial = None if initial is None else initial.contiguous()
    return _backend(backend).mean_field(Parts.of(*parts, in_play), unary.contiguous(), initial, keep)


def _backward(backend, grad, kept, *rest):
    *parts, started, wanted = rest
    own = _kernel_gradients(parts, wanted)
    groups = [[t if t.numel() else None for t in group] for group in _quarters(own)]
    kernels = [KernelGradient(*kernel) for kernel in zip(*groups, strict=True)]
    found = _backend(backend).gradients(Parts.of(*parts), grad.contiguous(), kept, started, kernels)
    return [*found, *own]


def _kernel_gradients(parts, wanted):
    """Zeros for the gradients of weights, θ, pre, post; empty if not needed."""
    _, weights, _, thetas, pres, posts, *_ = parts
    return [
        torch.zeros_like(t, memory_format=torch.contiguous_format) if want else t.new_empty(0)
        for t, want in zip([*weights, *thetas, *pres, *posts], wanted, strict=True)
    ]


def _quarters(entries: Sequence[Any]) -> list[Sequence[Any]]:
    """Split into the entries of weights, θ, pre and post."""
    count = len(entries) // 4
    return [entries[i * count : (i + 1) * count] for i in range(4)]


_library.impl("mean_field", _forward, "CompositeExplicitAutograd")
_library.impl("mean_field_backward", _backward, "CompositeExplicitAutograd")


# Fakes


@torch.library.register_fake("crfrnn::mean_field")
def _(backend, unary, initial, *rest):
    *_, iterations, _, keep, _ = rest
    kept = unary.new_empty(_backend(backend).kept(unary, iterations if keep else 0))
    logits = torch.empty_like(unary, memory_format=torch.contiguous_format)
    return logits, kept, unary.new_empty((), dtype=torch.bool)


@torch.library.register_fake("crfrnn::mean_field_backward")
def _(backend, grad, kept, transform, *rest):
    *parts, started, wanted = rest
    planes = torch.empty_like(grad, memory_format=torch.contiguous_format)
    start = torch.empty_like(planes) if started else grad.new_empty(0)
    return [planes, start, torch.empty_like(transform), *_kernel_gradients([transform, *parts], wanted)]


# Derivatives


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.backend, unary, initial, transform, *groups, ctx.grid, mask, clamp, iterations, damping, _, _ = inputs
    ctx.iterations, ctx.damping = iterations, damping
    ctx.started, ctx.counts = initial is not None, [len(group) for group in groups]
    flat = [t for group in groups for t in group]
    ctx.save_for_backward(output[1], unary, initial, transform, mask, clamp, *flat)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # otherwise zeros as large as all marginals would be allocated


def _differentiate(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    settings = [None] * 7  # from the grid on
    if grad is None:
        return None, None, None, None, *([None] * count for count in ctx.counts), *settings
    kept, unary, initial, transform, mask, clamp, *flat = ctx.saved_tensors
    tensors = iter(flat)
    groups = [[next(tensors) for _ in range(count)] for count in ctx.counts]
    rest = (ctx.grid, mask, clamp, ctx.iterations, ctx.damping)
    if needs_graph(grad):
        found = second_order.differentiate(grad, unary, initial, transform, groups, rest, ctx.backend)
        return None, *found, *settings
    weights, tables, *others = groups
    wanted = [t.requires_grad for group in (weights, *others) for t in group]
    to_unary, start, to_transform, *own = torch.ops.crfrnn.mean_field_backward(
        ctx.backend, grad, kept, transform, *groups, *rest, ctx.started, wanted
    )
    own = [g if want else None for g, want in zip(own, wanted, strict=True)]
    of_weights, *of_others = _quarters(own)
    none = [None] * len(tables)
    start = start if ctx.started else None
    return None, to_unary, start, to_transform, of_weights, none, *of_others, *settings


torch.library.register_autograd("crfrnn::mean_field", _differentiate, setup_context=_keep, lib=_library)
