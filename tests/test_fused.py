# SPDX-License-Identifier: MIT
"""The native operator against the general path in float64, with every gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from crfrnn import CRFRNN, GaussianKernel, mean_field
from crfrnn.crf import fused

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "one label": {"labels": 1},
    "matrices": {"matrix": True},
    "mask": {"mask": True},
    "clamp": {"clamp": True},
    "mask and clamp, damped": {"mask": True, "clamp": True, "damping": 0.6},
    "initial": {"initial": True},
    "initial, damped": {"initial": True, "damping": 0.5},
    "before": {"normalization": "before"},
    "symmetric": {"normalization": "symmetric"},
    "none": {"normalization": "none"},
    "two lattices": {"kernels": "bbs"},
    "two separables": {"kernels": "ssb"},
    "lattice only": {"kernels": "b"},
    "separable only": {"kernels": "s"},
    "one line": {"grid": (23,)},
    "volume": {"grid": (4, 5, 6)},
    "zero iterations": {"iterations": 0},
    "bandwidths held": {"held": True},
    "bandwidths held, mask": {"held": True, "mask": True},
    "bandwidths held, matrices": {"held": True, "matrix": True},
    "bandwidths held, two lattices": {"held": True, "kernels": "bbs"},
}
# Two, three, four and more packs of sixteen labels are rows of their own kind in the native core.
ROWS = {f"{labels} labels": {"labels": labels} for labels in (16, 17, 33, 40, 49, 64, 65, 90, 150)}
CASES |= ROWS
for name in ("matrices", "mask and clamp, damped", "two lattices", "lattice only", "bandwidths held, mask"):
    for row in ("17 labels", "40 labels", "49 labels", "90 labels"):
        CASES[f"{row}, {name}"] = {**ROWS[row], **CASES[name]}
CASES |= {f"{row}, bandwidths held": {**options, "held": True} for row, options in ROWS.items()}


def inference(dtype: torch.dtype, native: bool, *, labels: int = 5, matrix: bool = False, mask: bool = False,
              clamp: bool = False, initial: bool = False, damping: float = 1.0, normalization: str = "after",
              kernels: str = "bs", grid: tuple[int, ...] = (7, 9), iterations: int = 3,
              held: bool = False, device: str = "cpu") -> list[Tensor]:  # fmt: skip
    """Logits and the gradients of unary, initial, image, bandwidths, weights and compatibility.

    device: where it is computed; what is drawn is the same on all.
    held: without those of image and bandwidths: the backward pass walks each lattice once an iteration.
    """
    random = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    unary, start = draw(2, labels, *grid), draw(2, labels, *grid)
    image = 40 * draw(2, 3, *grid)
    thetas = [4.17 + draw(1).abs() for _ in kernels]
    colours = [31.3 + draw(1).abs() for _ in kernels]
    size = 0.02 if normalization == "none" else 1.0  # sums, not averages
    weights = [size * (draw(labels, labels) if matrix else draw(labels).abs() + 0.5) for _ in kernels]
    compatibility = draw(labels, labels) * 0.3 - torch.eye(labels)
    valid = (torch.rand(2, *grid, generator=random) > 0.25).to(device)
    known = torch.where(torch.rand(2, *grid, generator=random) > 0.8, 0, -1).to(device)
    leaves = [
        t.to(device, dtype).requires_grad_()
        for t in (unary, start, image, compatibility, *thetas, *colours, *weights)
    ]
    unary, start, image, compatibility = leaves[:4]
    n = len(kernels)
    thetas, colours, weights = leaves[4 : 4 + n], leaves[4 + n : 4 + 2 * n], leaves[4 + 2 * n :]
    built = []
    guide = image.detach() if held else image
    if held:
        thetas, colours = [t.detach() for t in thetas], [t.detach() for t in colours]
    for kind, theta, colour in zip(kernels, thetas, colours, strict=True):
        options: dict[str, Any] = {"normalization": normalization, "mask": valid if mask else None}
        if kind == "s":
            built.append(GaussianKernel.spatial(grid, theta * 0.37, **options))
        else:
            backend = None if native else "reference"
            built.append(GaussianKernel.bilateral(guide, theta, colour, backend=backend, **options))
    assert fused.supports(unary, built, "softmax", 2) == native
    out = mean_field(
        unary, built, weights, compatibility, iterations, mask=valid if mask else None,
        clamp=known if clamp else None, damping=damping, initial=start if initial else None,
    )  # fmt: skip
    weight = torch.randn(out.shape, generator=random, dtype=torch.float64).to(out)
    grads = torch.autograd.grad((out.softmax(1) * weight).sum(), leaves, allow_unused=True)
    return [
        out.detach(),
        *(torch.zeros_like(t) if g is None else g for t, g in zip(leaves, grads, strict=True)),
    ]


@pytest.mark.filterwarnings("ignore:.*one marginal is 1 everywhere")
@pytest.mark.parametrize("case", CASES)
def test_equals_the_general_path_with_every_gradient(case: str) -> None:
    ours = inference(torch.float32, True, **CASES[case])
    truth = inference(torch.float64, False, **CASES[case])
    for a, b in zip(ours, truth, strict=True):
        scale = float(b.abs().amax()) + 1e-3
        torch.testing.assert_close(a.double() / scale, b / scale, rtol=0, atol=2e-4)


def crf_and_input(labels: int = 21) -> tuple[CRFRNN, Tensor, Tensor]:
    crf = CRFRNN(labels, theta_alpha=20.3, theta_beta=11.1, theta_gamma=2.1)
    return crf, torch.randn(2, labels, 40, 50), torch.rand(2, 3, 40, 50) * 255


@pytest.mark.parametrize("held", [False, True], ids=["bandwidths learned", "bandwidths held"])
@pytest.mark.parametrize("labels", [21, 40, 60, 81])
def test_same_bits_from_run_to_run_and_for_any_number_of_threads(labels: int, held: bool) -> None:
    crf, unary, image = crf_and_input(labels)
    unary.requires_grad_()
    learned = [unary, *(p for n, p in crf.named_parameters() if not (held and "theta" in n))]
    if held:
        for name, parameter in crf.named_parameters():
            parameter.requires_grad_("theta" not in name)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            out = crf(unary, image)
            results.append([out.detach(), *torch.autograd.grad(out.square().sum(), learned)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("labels", [21, 40, 60, 81])
def test_every_instruction_set_agrees(labels: int) -> None:
    from crfrnn import _native

    crf, unary, image = crf_and_input(labels)
    best, outs = _native.instruction_set(), []
    try:
        for name in _native.instruction_sets():
            _native.use_instruction_set(name)
            outs.append(crf(unary, image).detach())
    finally:
        _native.use_instruction_set(best)
    for out in outs[1:]:
        torch.testing.assert_close(out, outs[0], rtol=1e-4, atol=1e-4)


def test_non_finite_unaries_are_refused_by_the_operator() -> None:
    crf, unary, image = crf_and_input()
    unary[0, 0, 0, 0] = float("inf")
    with pytest.raises(ValueError, match=r"unary.*clamp"):
        crf(unary, image)


def operator_arguments() -> dict[str, tuple[Any, ...]]:
    features = torch.randn(1, 30, 3, requires_grad=True)
    weights, table = torch.ops.crfrnn.lattice_build(features, None, 1.0, 0, 1, False)
    weights = weights.detach().requires_grad_()
    values = torch.randn(30, 4, requires_grad=True)
    none = torch.empty(0)
    theta = torch.tensor([1.0, 1.3, 1.7], dtype=torch.float64, requires_grad=True)
    scale = torch.rand(30).requires_grad_()
    kernels = ([weights, none], [table, none], [none, theta], [none, none], [scale, scale])
    unary, transform = torch.randn(1, 4, 30, requires_grad=True), torch.randn(2, 4, 4, requires_grad=True)
    return {
        "lattice_build": (features, None, 1.0, 0, 1, True),
        "lattice_filter": (values, weights, False, table),
        "lattice_weight_gradient": (values.detach(), values.detach(), weights.detach(), table),
        "lattice_feature_gradient": (weights.detach(), features.detach(), 1.0, table),
        "mean_field": (unary, None, transform, *kernels, [1, 5, 6], None, None, 2, 1.0, True),
    }


OPERATORS = [f"lattice_{name}" for name in ("build", "filter", "weight_gradient", "feature_gradient")] + [
    "mean_field"
]


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name: str) -> None:
    # The padding of a table is never read, hence never written: its bits differ from call to call.
    tests = ["test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
    torch.library.opcheck(
        getattr(torch.ops.crfrnn, name).default,
        operator_arguments()[name],
        test_utils=tests[:3] if name == "lattice_build" else tests,
    )


@pytest.mark.parametrize("train", [False, True])
def test_compiles_without_a_graph_break(train: bool) -> None:
    crf, unary, image = crf_and_input()
    unary.requires_grad_(train)
    compiled = torch.compile(crf, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(unary, image), crf(unary, image))
    if train:
        wanted = [unary, *crf.parameters()]
        ours = torch.autograd.grad(compiled(unary, image).square().sum(), wanted)
        for a, b in zip(ours, torch.autograd.grad(crf(unary, image).square().sum(), wanted), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().amax()))


def test_compiles_for_other_sizes_and_numbers_of_labels() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(CRFRNN.forward, fullgraph=True, backend="aot_eager")
    for labels, height, width in (
        (3, 8, 9),
        (4, 10, 7),
        (5, 6, 11),
        (5, 12, 6),
    ):  # the second makes them symbols
        crf = CRFRNN(labels, iterations=2)
        unary, image = torch.randn(1, labels, height, width), torch.rand(1, 3, height, width) * 255
        torch.testing.assert_close(compiled(crf, unary, image), crf(unary, image))


def test_vmap_over_samples_equals_the_batch() -> None:
    crf, unary, image = crf_and_input()
    one = torch.func.vmap(lambda u, i: crf(u.unsqueeze(0), i.unsqueeze(0)).squeeze(0))
    torch.testing.assert_close(one(unary, image), crf(unary, image), rtol=1e-4, atol=1e-4)
    shared = torch.func.vmap(lambda u: crf(u.unsqueeze(0), image[:1]).squeeze(0))
    torch.testing.assert_close(
        shared(unary), crf(unary, image[:1].expand(2, -1, -1, -1)), rtol=1e-4, atol=1e-4
    )


class Zeros(TorchDispatchMode):
    """Counts the numbers of the tensors of zeros that are made."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if "zeros" in str(func):
            self.most = max(self.most, out.numel())
        return out


def test_backward_makes_no_zeros_for_what_has_no_gradient() -> None:
    crf, image = CRFRNN(4), torch.rand(1, 3, 30, 40) * 255
    logits = crf(torch.randn(1, 4, 30, 40, requires_grad=True), image, iterations=3)
    with Zeros() as zeros:
        logits.sum().backward()
    assert zeros.most < logits.numel()  # as large as all marginals and as the lattice's table, once
