# SPDX-License-Identifier: MIT
"""Mean field on a GPU or in Triton's interpreter, against the general path in float64, every gradient too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from conformance import LATTICES, TRITON_DEVICE
from crfrnn import CRFRNN, GaussianKernel, mean_field
from crfrnn.crf import ops
from crfrnn.crf.problem import Problem
from crfrnn.lattice import Lattice, backend
from inferences import CASES, inference

pytest.importorskip("triton")
F64 = torch.float64
interpreted = pytest.mark.skipif("triton" not in LATTICES, reason="a GPU is here: no interpreter")
SOME = ["plain", "40 labels", "150 labels", "matrices", "mask and clamp, damped", "initial, damped",
        "symmetric", "two lattices", "two separables", "one line", "zero iterations"]  # fmt: skip


@pytest.fixture
def on_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the default backend of CUDA tensors for CPU tensors."""
    monkeypatch.setitem(backend.BY_DEVICE, "cpu", "triton")
    monkeypatch.setattr("crfrnn.crf.triton.backward.PIECE", 8)  # several chunks and a remainder


def crf_and_input(labels: int = 4) -> tuple[CRFRNN, torch.Tensor, torch.Tensor]:
    crf = CRFRNN(labels, theta_alpha=4.3, theta_beta=31.1, theta_gamma=1.1, iterations=2)
    return crf, torch.randn(1, labels, 5, 6), torch.rand(1, 3, 5, 6) * 255


@pytest.mark.parametrize("case", SOME)
def test_mean_field_equals_the_general_path_with_every_gradient(case: str, on_triton: None) -> None:
    options = {"grid": (5, 6), "iterations": 2, **CASES[case]}
    ours = inference(torch.float32, True, **options, device=TRITON_DEVICE)
    truth = inference(F64, False, **options)
    for a, b in zip(ours, truth, strict=True):
        a = a.cpu()
        scale = float(b.abs().amax()) + 1e-3
        torch.testing.assert_close(a.double() / scale, b / scale, rtol=0, atol=2e-4)


@interpreted
@pytest.mark.parametrize("labels, activation", [(257, "softmax"), (3, "relu")])
def test_the_general_path_uses_the_same_lattice(
    labels: int, activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Problems outside the operator's limits: more labels, another activation; against the native core."""
    _, unary, image = crf_and_input(labels)
    crf = CRFRNN(labels, 4.3, 31.1, 1.1, iterations=2, activation=activation)
    results = []
    for name in ("triton", "cpu"):
        monkeypatch.setitem(backend.BY_DEVICE, "cpu", name)
        weights = crf.spatial_weights, crf.bilateral_weights
        problem = Problem.of(unary, crf.kernels(image), weights, crf.compatibility, activation=activation)
        assert (ops.can(problem) is None) == (labels == 257 and name == "cpu")
        out = crf(unary, image)
        results.append([out.detach(), *torch.autograd.grad(out.square().sum(), [*crf.parameters()])])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().amax()))


def test_same_bits_from_run_to_run(on_chip: None, on_triton: None) -> None:
    crf, unary, image = crf_and_input()
    unary.requires_grad_()
    results = []
    for _ in range(2):
        out = crf(unary, image)
        results.append([out.detach(), *torch.autograd.grad(out.square().sum(), [unary, *crf.parameters()])])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


class NoLookingBack(TorchDispatchMode):
    """Refuses operations that synchronise with the device, read a size from it, or copy a number to it.

    Inside the package's operators as well, which the dispatcher would otherwise run undetected.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.zeros: list[tuple[int, ...]] = []
        self.inside = {
            torch.ops.crfrnn.mean_field.default: ops._forward,
            torch.ops.crfrnn.mean_field_backward.default: ops._backward,
        }

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waiting = ("_local_scalar_dense", "nonzero", "_unique", "unique_", "masked_select", "equal.default",
                   "repeat_interleave.Tensor", "lift_fresh")  # fmt: skip
        assert not any(word in str(func) for word in waiting), func
        self.seen.append(str(func))
        if func in self.inside:
            with self:
                return self.inside[func](*args, **(kwargs or {}))
        out = func(*args, **(kwargs or {}))
        if "zeros" in str(func):
            self.zeros.append(tuple(out.shape))
        return out


@interpreted
@pytest.mark.parametrize("grad", [False, True])
def test_the_loop_never_synchronises_with_the_device(grad: bool, on_triton: None) -> None:
    """With the check for finite values disabled, as in a CUDA graph."""
    crf, unary, image = crf_and_input()
    kernels = [k for k in crf.kernels(image)]
    weights = (3.0, crf.bilateral_weights.detach())
    unary.requires_grad_(grad)
    assert ops.can(Problem.of(unary, kernels, weights, crf.compatibility)) is None
    with ops.unchecked(), NoLookingBack() as watch:
        out = mean_field(unary, kernels, weights, crf.compatibility.detach(), 2)
        if grad:
            torch.autograd.grad(out.sum(), unary)
    assert {"aten.index_select.default", "aten.clone.default"} <= set(watch.seen)  # the operator's own
    assert (2, 30, 4) not in watch.zeros  # a gradient of the marginals, which have none
    for waits in (lambda: unary.amax().item(), lambda: torch.tensor([2.0])):
        with pytest.raises(AssertionError), NoLookingBack():
            waits()


def test_values_that_are_not_finite(on_chip: None, on_triton: None) -> None:
    crf, unary, image = crf_and_input()
    unary[0, 1, 2, 3] = float("nan")
    with pytest.raises(ValueError, match=r"unary: .*1 infinite or NaN"):
        crf(unary, image)
    with ops.unchecked():
        assert crf(unary, image).shape == unary.shape
    mask = torch.ones(1, 5, 6, dtype=torch.bool)
    mask[0, 2, 3] = False
    out = crf(unary, image, mask=mask)
    assert out[mask.unsqueeze(1).expand_as(out)].isfinite().all()
    unary[0, 1, 2, 3] = 0
    kernel = GaussianKernel.bilateral(image, 4.3, 31.1)
    for weight, compatibility, words in (
        (float("nan"), -torch.eye(4), r"weights\[0\]: .*1 infinite or NaN"),
        (1.0, torch.full((4, 4), float("-inf")), r"compatibility: .*16 infinite"),
    ):
        with pytest.raises(ValueError, match=words):
            mean_field(unary, [kernel], [weight], compatibility, 1)
    with pytest.raises(ValueError, match=r"initial: .*1 infinite"):
        start = torch.zeros_like(unary)
        start[0, 0, 0, 0] = float("inf")
        mean_field(torch.zeros_like(unary), [kernel], [1.0], -torch.eye(4), 1, initial=start)


def test_compiles_without_a_graph_break(on_chip: None, on_triton: None) -> None:
    crf, unary, image = crf_and_input()
    expected = crf(unary, image)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(crf, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(unary, image), expected)


@interpreted
def test_opcheck() -> None:
    lattice = Lattice.build(torch.randn(1, 12, 2), backend="triton")
    weights, none = lattice.weights.detach().requires_grad_(), torch.empty(0)
    theta, scale = torch.tensor([1.0, 1.3], dtype=F64, requires_grad=True), torch.rand(12).requires_grad_()
    tables = [*lattice.structure, *[none] * len(lattice.structure)]
    kernels = ([weights, none], tables, [none, theta], [none, none], [scale, scale])
    unary, transform = torch.randn(1, 3, 12, requires_grad=True), torch.randn(2, 3, 3, requires_grad=True)
    torch.library.opcheck(
        torch.ops.crfrnn.mean_field.default,
        ("triton", unary, None, transform, *kernels, [3, 4], None, None, 2, 1.0, True, 0.0),
        test_utils=["test_schema", "test_autograd_registration", "test_faketensor"],
    )
