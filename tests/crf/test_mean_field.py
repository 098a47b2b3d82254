# SPDX-License-Identifier: MIT
"""Mean field against a pixel-by-pixel numpy version, its options, and both ways to its gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

import dense_crf
from crfrnn import mean_field
from dense_crf import DenseKernel

SIZE, LABELS = (4, 5), 3
PIXELS = SIZE[0] * SIZE[1]


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def problem(rng, scale=2.0):
    """Unary [N, L], two asymmetric kernels and an asymmetric compatibility, all numpy float64."""
    image = rng.integers(0, 256, (3, *SIZE))
    kernels = [
        dense_crf.normalised(dense_crf.gaussian(dense_crf.positions(*SIZE) / 1.3), "after"),
        dense_crf.normalised(dense_crf.gaussian(dense_crf.features(image, 2.1, 90.0)), "before"),
    ]
    return scale * rng.standard_normal((PIXELS, LABELS)), kernels, rng.standard_normal((LABELS, LABELS))


def torch_kernels(kernels, batch=1):
    return [DenseKernel(torch.from_numpy(k).expand(batch, -1, -1)) for k in kernels]


def run(unary, kernels, weights, mu, steps, **options):
    weights = [torch.as_tensor(w, dtype=torch.float64) for w in weights]
    grid = dense_crf.grid(unary, SIZE)
    return mean_field(grid, torch_kernels(kernels), weights, torch.from_numpy(mu), steps, **options)


WEIGHTS = {
    "scalar": [1.5, 2.0],
    "vector": [np.array([0.5, 1.0, 2.0]), np.array([3.0, -1.0, 0.2])],
    "matrix": [np.arange(9.0).reshape(3, 3) / 5, -np.eye(3)[[1, 2, 0]]],
    "mixed": [2.0, np.arange(9.0).reshape(3, 3) / 5],
}


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("option", ["plain", "damping", "mask", "clamp", "mask and clamp", "relu", "initial"])
def test_against_numpy(rng, weights, steps, option):
    unary, kernels, mu = problem(rng)
    ours, theirs = {}, {}
    if option == "damping":
        ours["damping"] = theirs["damping"] = 0.3
    if "mask" in option:
        theirs["mask"] = rng.random(PIXELS) > 0.3
        ours["mask"] = torch.from_numpy(theirs["mask"].reshape(1, *SIZE))
    if "clamp" in option:
        theirs["clamp"] = rng.integers(-1, LABELS, PIXELS)
        ours["clamp"] = torch.from_numpy(theirs["clamp"].reshape(1, *SIZE))
    if option == "relu":
        ours["activation"], theirs["share"] = "relu", dense_crf.relu_share
    start = unary
    if option == "initial":
        start = rng.standard_normal(unary.shape)
        ours["initial"] = dense_crf.grid(start, SIZE)
    got = run(unary, kernels, WEIGHTS[weights], mu, steps, **ours)
    want = dense_crf.mean_field(unary, kernels, WEIGHTS[weights], mu, steps, start=start, **theirs)
    if "clamp" in option:
        known = (theirs["clamp"] >= 0) & theirs.get("mask", True)
        want[known] = 100 * np.eye(LABELS)[theirs["clamp"][known]]
    np.testing.assert_allclose(got.numpy(), dense_crf.grid(want, SIZE).numpy(), atol=1e-12)


def test_batch_equals_singles(rng):
    unary, kernels, mu = problem(rng)
    other, _, _ = problem(rng)
    both = torch.cat([dense_crf.grid(unary, SIZE), dense_crf.grid(other, SIZE)])
    mask = torch.from_numpy(rng.random((2, *SIZE)) > 0.2)
    weights, mu = [torch.ones(3), torch.tensor([1.0, 2.0, 3.0])], torch.from_numpy(mu)
    together = mean_field(both, torch_kernels(kernels, 2), weights, mu, 3, mask=mask)
    for b in range(2):
        one = slice(b, b + 1)
        single = mean_field(both[one], torch_kernels(kernels), weights, mu, 3, mask=mask[one])
        torch.testing.assert_close(together[one], single, rtol=0, atol=1e-12)


def test_masked_pixels_may_have_any_value_and_keep_it(rng):
    unary, kernels, mu = problem(rng)
    mask = torch.ones(1, *SIZE, dtype=torch.bool)
    mask[..., -1] = False
    grid = dense_crf.grid(unary, SIZE)
    rubbish = torch.where(mask.unsqueeze(1), grid, torch.nan)
    rubbish[0, 0, 0, -1] = torch.inf
    leaf = rubbish.clone().requires_grad_()
    weights, mu = [1.0, 2.0], torch.from_numpy(mu)
    out = mean_field(leaf, torch_kernels(kernels), weights, mu, 3, mask=mask)
    clean = mean_field(grid, torch_kernels(kernels), weights, mu, 3, mask=mask)
    inside = mask.unsqueeze(1).expand_as(out)
    torch.testing.assert_close(out[inside], clean[inside])
    torch.testing.assert_close(out[~inside], rubbish[~inside], equal_nan=True)
    out[inside].sum().backward()
    assert torch.isfinite(leaf.grad).all()
    assert (leaf.grad[~inside] == 0).all()


def test_a_clamped_label_is_kept_and_propagates():
    unary = torch.zeros(1, 3, 1, 7, dtype=torch.float64)
    clamp = torch.full((1, 1, 7), -1)
    clamp[0, 0, 3] = 2
    kernel = DenseKernel(torch.from_numpy(dense_crf.gaussian(dense_crf.positions(1, 7))[None]))
    out = mean_field(unary, [kernel], [1.0], -torch.eye(3), 1, clamp=clamp)
    assert (out.argmax(1) == 2).all()
    assert torch.softmax(out, 1)[0, 2, 0, 3] == 1.0
    assert mean_field(unary, [kernel], [1.0], -torch.eye(3), 0, clamp=clamp)[0, :, 0, 3].tolist() == [
        0,
        0,
        100,
    ]


def test_tolerance_stops_at_the_fixed_point(rng):
    unary, kernels, mu = problem(rng)
    stopped = run(unary, kernels, [0.2, 0.2], mu, 1000, tolerance=1e-6)
    calls = []

    class Counting(DenseKernel):
        def __matmul__(self, values):
            calls.append(1)
            return super().__matmul__(values)

    counting = [Counting(torch.from_numpy(k)[None]) for k in kernels]
    again = mean_field(
        dense_crf.grid(unary, SIZE), counting, [0.2, 0.2], torch.from_numpy(mu), 1000, tolerance=1e-6
    )
    assert len(calls) < 100
    torch.testing.assert_close(again, stopped)
    torch.testing.assert_close(
        torch.softmax(stopped, 1),
        torch.softmax(run(unary, kernels, [0.2, 0.2], mu, 200), 1),
        atol=1e-5,
        rtol=0,
    )


def test_zero_iterations_return_the_unary_bit_for_bit():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        unary = torch.randn(2, 3, 4, 5, dtype=torch.float64).to(dtype)
        out = mean_field(unary, [], [], -torch.eye(3), 0)
        assert out.dtype == dtype and torch.equal(out, unary)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_input_is_computed_in_float32(rng, dtype):
    unary, kernels, mu = problem(rng)
    kernels = [DenseKernel(torch.from_numpy(k).float()[None]) for k in kernels]
    half = dense_crf.grid(unary, SIZE).to(dtype)
    mu = torch.from_numpy(mu)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = mean_field(half, kernels, [1.0, 2.0], mu, 3)
    assert out.dtype == dtype
    assert torch.equal(out, mean_field(half.float(), kernels, [1.0, 2.0], mu, 3).to(dtype))


def test_strides_do_not_matter(rng):
    unary, kernels, mu = problem(rng)
    grid, mu = dense_crf.grid(unary, SIZE), torch.from_numpy(mu)
    want = mean_field(grid, torch_kernels(kernels), [1.0, 2.0], mu, 2)
    for other in (
        grid.to(memory_format=torch.channels_last),
        grid.transpose(2, 3).contiguous().transpose(2, 3),
        torch.stack([grid, grid], -1)[..., 0],
    ):
        out = mean_field(other, torch_kernels(kernels), [1.0, 2.0], mu, 2)
        assert out.is_contiguous()
        torch.testing.assert_close(out, want, rtol=0, atol=1e-13)


def test_odd_shapes():
    eye = -torch.eye(2)
    one = DenseKernel(torch.ones(1, 1, 1))
    assert mean_field(torch.zeros(0, 2, 4), [DenseKernel(torch.ones(0, 4, 4))], [1.0], eye, 3).shape == (
        0,
        2,
        4,
    )
    # One pixel with a kernel of 1: x ← U + softmax(x).
    unary = torch.tensor([[[1.0], [0.0]]])
    torch.testing.assert_close(mean_field(unary, [one], [1.0], eye, 1), unary + torch.softmax(unary, 1))
    # One label: Q is 1 everywhere.
    with pytest.warns(UserWarning, match="only marginal"):
        out = mean_field(torch.zeros(1, 1, 1, 1), [one], [2.0], -torch.ones(1, 1), 4)
    torch.testing.assert_close(out, torch.full((1, 1, 1, 1), 2.0))
    # No kernel at all: the unary.
    assert torch.equal(mean_field(unary, [], [], eye, 3), unary)


def leaves(rng, scale=1.0):
    unary, kernels, mu = problem(rng)
    tensors = [dense_crf.grid(unary, SIZE), *(torch.from_numpy(k[None]) for k in kernels)]
    tensors += [torch.from_numpy(scale * rng.random(3)), torch.from_numpy(scale * rng.random((3, 3)))]
    return [t.requires_grad_() for t in (*tensors, torch.from_numpy(mu))]


def solve(options, unary, first, second, vector, matrix, mu):
    return mean_field(unary, [DenseKernel(first), DenseKernel(second)], [vector, matrix], mu, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"iterations": 3},
        {"iterations": 2, "damping": 0.4},
        {"iterations": 2, "activation": "relu"},
        {"iterations": 2, "mask": True, "clamp": True},
    ],
    ids=str,
)
def test_gradcheck(rng, options):
    options = dict(options)
    if "mask" in options:
        options["mask"] = torch.from_numpy(rng.random((1, *SIZE)) > 0.3)
        options["clamp"] = torch.from_numpy(rng.integers(-1, LABELS, (1, *SIZE)))
    inputs = leaves(rng)
    assert gradcheck(lambda *t: solve(options, *t), inputs, nondet_tol=0, fast_mode=True)
    # Entry by entry too, if it is small enough.
    fixed = [t.detach() for t in inputs[1:3]]
    few = [inputs[0], *inputs[3:]]
    assert gradcheck(lambda u, v, m, mu: solve(options, u, *fixed, v, m, mu), few, nondet_tol=0)


@pytest.mark.parametrize("damping", [1.0, 0.6])
@pytest.mark.parametrize("restricted", [False, True])
def test_implicit_gradient_is_the_unrolled_one(rng, damping, restricted):
    inputs = leaves(rng, scale=0.3)
    limits = {}
    if restricted:
        limits["mask"] = torch.from_numpy(rng.random((1, *SIZE)) > 0.3)
        limits["clamp"] = torch.from_numpy(rng.integers(-1, LABELS, (1, *SIZE)))
    coefficients = torch.from_numpy(rng.standard_normal((1, LABELS, *SIZE)))
    gradients, outputs = [], []
    for way in ("unrolled", "implicit"):
        out = solve({"iterations": 150, "damping": damping, "gradient": way, **limits}, *inputs)
        outputs.append(out.detach())
        gradients.append(torch.autograd.grad((coefficients * torch.tanh(out)).sum(), inputs))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-13)
    for unrolled, implicit in zip(*gradients, strict=True):
        torch.testing.assert_close(implicit, unrolled, rtol=1e-8, atol=1e-10)


def test_implicit_without_parameters_to_learn(rng):
    out = solve({"iterations": 50, "gradient": "implicit"}, *(t.detach() for t in leaves(rng, scale=0.3)))
    assert not out.requires_grad


def saved_bytes(function):
    """Bytes of the distinct tensors that autograd holds between forward and backward."""
    held = {}

    def pack(tensor):
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = function()
    del result
    return sum(held.values())


def test_memory_of_backward(rng):
    """Unrolled: exactly one x per iteration; implicit: constant in T."""
    inputs = leaves(rng, scale=0.3)
    one = inputs[0].numel() * inputs[0].element_size()
    ways = {}
    for way in ("unrolled", "implicit"):
        ways[way] = [
            saved_bytes(lambda t=t, way=way: solve({"iterations": t, "gradient": way}, *inputs))
            for t in (20, 40)
        ]
    assert ways["unrolled"][1] - ways["unrolled"][0] <= 20 * one
    assert ways["implicit"][1] == ways["implicit"][0]


def test_implicit_reports_a_missing_fixed_point(rng):
    inputs = leaves(rng, scale=0.3)
    with pytest.warns(RuntimeWarning, match=r"converged fixed point.*more iterations"):
        solve({"iterations": 1, "gradient": "implicit"}, *inputs)


def test_second_derivatives_exist(rng):
    inputs = leaves(rng)
    (first,) = torch.autograd.grad(
        solve({"iterations": 2}, *inputs).square().sum(), inputs[0], create_graph=True
    )
    (second,) = torch.autograd.grad(first.square().sum(), inputs[4])
    assert torch.isfinite(second).all() and second.abs().sum() > 0


def test_torch_func(rng):
    """grad and vmap transform the function; they agree with backward and with a loop."""
    inputs = [t.detach() for t in leaves(rng)]
    loss = lambda unary: solve({"iterations": 2}, unary, *inputs[1:]).square().sum()  # noqa: E731
    leaf = inputs[0].clone().requires_grad_()
    (want,) = torch.autograd.grad(loss(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(loss)(inputs[0]), want)
    many = torch.stack([inputs[0], 2 * inputs[0]])
    torch.testing.assert_close(
        torch.func.vmap(lambda u: solve({"iterations": 2}, u, *inputs[1:]))(many),
        torch.stack([solve({"iterations": 2}, u, *inputs[1:]) for u in many]),
    )
