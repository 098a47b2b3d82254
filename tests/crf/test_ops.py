# SPDX-License-Identifier: MIT
"""The native operator against the general path in float64, with every gradient, and when it runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from crfrnn import CRFRNN, GaussianKernel, mean_field
from crfrnn.crf import ops
from crfrnn.crf.problem import Problem
from crfrnn.lattice import Lattice, reference
from inferences import CASES, inference
from threads import threads


@pytest.mark.filterwarnings("ignore:.*only marginal is 1 everywhere")
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


@pytest.mark.slow
@pytest.mark.parametrize("held", [False, True], ids=["bandwidths learned", "bandwidths held"])
@pytest.mark.parametrize("labels", [21, 40, 60, 81])
def test_same_bits_from_run_to_run_and_for_any_number_of_threads(labels: int, held: bool) -> None:
    crf, unary, image = crf_and_input(labels)
    unary.requires_grad_()
    learned = [unary, *(p for n, p in crf.named_parameters() if not (held and "theta" in n))]
    if held:
        for name, parameter in crf.named_parameters():
            parameter.requires_grad_("theta" not in name)
    results = []
    for count in (1, 2, 3, 2):
        with threads(count):
            out = crf(unary, image)
            results.append([out.detach(), *torch.autograd.grad(out.square().sum(), learned)])
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


@pytest.mark.parametrize(
    ("dimension", "lead"), [(2, 0), (3, 2), (5, 0), (5, 2), (5, 3), (7, 1), (7, 4), (8, 7)]
)
def test_groups_of_axes_wherever_they_cross_the_slabs(dimension: int, lead: int) -> None:
    """Points that spread along one coordinate of the lattice: either group, or both, reach into other slabs.

    Against the general path, and the same bits for any number of threads.
    """
    size = dimension + 1
    along = torch.tensor([1.0] * (lead + 1) + [-(lead + 1) / (dimension - lead)] * (dimension - lead))
    across = torch.linalg.pinv(reference.elevate(torch.eye(dimension)))
    line = torch.linspace(0, 60, 600).view(-1, 1) * size * (along @ across) / 4
    points = (line + 0.9 * torch.randn(600, dimension)).unsqueeze(0)
    unary, grad, costs = torch.randn(1, 40, 20, 30), torch.randn(1, 40, 20, 30), -torch.eye(40)
    results = []
    for backend, count in (("reference", 1), ("cpu", 1), ("cpu", 2), ("cpu", 3)):
        leaves = [unary.clone().requires_grad_(), points.clone().requires_grad_()]
        with threads(count):
            kernel = GaussianKernel(leaves[1], quality="high", backend=backend)
            out = mean_field(leaves[0], [kernel], [torch.tensor(2.0)], costs, iterations=3)
            results.append([out.detach(), *torch.autograd.grad(out, leaves, grad)])
        assert isinstance(kernel.operator, Lattice)
        assert backend == "reference" or int(kernel.operator.structure[0][2]) == lead
    truth, one, *others = results
    for a, b in zip(one, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-3 * float(b.abs().amax()))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(other, one, strict=True))


def test_non_finite_unaries_are_refused_by_the_operator() -> None:
    crf, unary, image = crf_and_input()
    unary[0, 0, 0, 0] = float("inf")
    with pytest.raises(ValueError, match=r"unary.*clamp"):
        crf(unary, image)


@pytest.mark.parametrize(
    ("reason", "options"),
    [
        (None, {}),
        ("float64", {"dtype": torch.float64}),
        ("activation", {"activation": "relu"}),
        ("self term", {"exclude_self": True}),
        ("all pairs", {"bilateral_method": "exact"}),
        ("1024 labels", {"labels": 1025}),
        ("backend 'reference'", {"backend": "reference"}),
        ("nothing to filter", {"count": 0}),
        ("batch", {"pictures": 1}),
    ],
    ids=str,
)
def test_why_the_operator_cannot_run_a_problem(reason: str | None, options: dict[str, Any]) -> None:
    options = {
        "labels": 3,
        "dtype": torch.float32,
        "activation": "softmax",
        "pictures": 2,
        "count": 2,
        **options,
    }
    labels, dtype, activation, pictures, count = (
        options.pop(name) for name in ("labels", "dtype", "activation", "pictures", "count")
    )
    unary, image = torch.randn(2, labels, 4, 5, dtype=dtype), 255 * torch.rand(pictures, 3, 4, 5, dtype=dtype)
    if backend := options.pop("backend", None):
        kernels = [GaussianKernel.bilateral(image, 4.3, 31.1, backend=backend)]
    else:
        kernels = list(CRFRNN(labels, **options).kernels(image))[:count]
    weights, mu = [1.0] * len(kernels), -torch.eye(labels)
    found = ops.can(Problem.of(unary, kernels, weights, mu, activation=activation))
    assert found is None if reason is None else found is not None and reason in found
    out = mean_field(unary, kernels, weights, mu, 1, activation=activation)  # native or general path
    double = mean_field(unary.double(), kernels, weights, mu.double(), 1, activation=activation)
    torch.testing.assert_close(out.double(), double, rtol=1e-4, atol=1e-4)


def operator_arguments() -> dict[str, tuple[Any, ...]]:
    features = torch.randn(1, 30, 3, requires_grad=True)
    weights, table = torch.ops.crfrnn.lattice_build("cpu", features, None, 1.0, 0, 1, 1, False)
    weights = weights.detach().requires_grad_()
    values = torch.randn(30, 4, requires_grad=True)
    none = torch.empty(0)
    theta = torch.tensor([1.0, 1.3], dtype=torch.float64, requires_grad=True)
    scale = torch.rand(30).requires_grad_()
    kernels = ([weights, none], [table, none], [none, theta], [none, none], [scale, scale])
    unary, transform = torch.randn(1, 4, 30, requires_grad=True), torch.randn(2, 4, 4, requires_grad=True)
    return {
        "lattice_build": ("cpu", features, None, 1.0, 0, 1, 1, True),
        "lattice_filter": ("cpu", values, weights, False, table),
        "lattice_weight_gradient": ("cpu", values.detach(), values.detach(), weights.detach(), table),
        "lattice_feature_gradient": ("cpu", weights.detach(), features.detach(), 1.0, table),
        "mean_field": ("cpu", unary, None, transform, *kernels, [5, 6], None, None, 2, 1.0, True, 0.0),
    }


OPERATORS = [f"lattice_{name}" for name in ("build", "filter", "weight_gradient", "feature_gradient")] + [
    "mean_field"
]


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name: str) -> None:
    # The padding of a table is never read and so never written: its bits differ between calls.
    tests = ["test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
    torch.library.opcheck(
        getattr(torch.ops.crfrnn, name).default,
        operator_arguments()[name],
        test_utils=tests[:3] if name == "lattice_build" else tests,
    )


@pytest.mark.slow
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


@pytest.mark.slow
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
    """Records the sizes of tensors of zeros that are created."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if "zeros" in str(func):
            self.most = max(self.most, out.numel())
        return out


def test_backward_allocates_no_zeros_without_a_gradient() -> None:
    crf, image = CRFRNN(4), torch.rand(1, 3, 30, 40) * 255
    logits = crf(torch.randn(1, 4, 30, 40, requires_grad=True), image, iterations=3)
    with Zeros() as zeros:
        logits.sum().backward()
    assert zeros.most < logits.numel()  # as large as all marginals, and as the lattice's table, once
