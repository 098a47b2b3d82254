# SPDX-License-Identifier: MIT
"""Wide spatial kernels, which the native operator computes on a coarser grid, against plain sums."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crfrnn import CRFRNN, GaussianKernel, mean_field
from threads import threads

SHAPES = [(50, 70), (9, 300), (33, 33), (10, 40, 50), (1, 40), (40,)]
WIDE = [2.9, 3.0, 3.7, 4.5, 6.0, 10.0]  # the first is narrow, the second the smallest wide one


def message(
    shape: tuple[int, ...],
    theta: tuple[float, ...],
    labels: int,
    dtype: torch.dtype,
    normalization: str = "after",
) -> Tensor:
    """K softmax(u), with μ = -I and weights of 1: logits minus unary."""
    random = torch.Generator().manual_seed(5)
    unary = 3 * torch.randn(2, labels, *shape, generator=random)
    kernel = GaussianKernel.spatial(shape, torch.tensor(theta, dtype=dtype), normalization=normalization)
    unary = unary.to(dtype)
    weights = torch.ones(labels, dtype=dtype)
    return mean_field(unary, [kernel], [weights], -torch.eye(labels, dtype=dtype), iterations=1) - unary


@pytest.mark.slow
@pytest.mark.parametrize("labels", [1, 2, 5, 16, 21, 33])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_plain_sums(shape: tuple[int, ...], labels: int) -> None:
    for theta in WIDE:
        every = (theta,) * len(shape)
        ours = message(shape, every, labels, torch.float32).double()
        truth = message(shape, every, labels, torch.float64)
        torch.testing.assert_close(ours, truth, rtol=0, atol=5e-5)


@pytest.mark.parametrize(
    "theta", [(30.0, 4.0), (4.0, 25.0), (50.0, 60.0), (2.0, 9.0), (3.2, 4.4), (4.4, 3.0)]
)
def test_each_axis_has_its_own_step(theta: tuple[float, float]) -> None:
    ours, truth = (message((200, 220), theta, 3, dtype) for dtype in (torch.float32, torch.float64))
    torch.testing.assert_close(ours.double(), truth, rtol=0, atol=5e-5)


@pytest.mark.parametrize("normalization", ["before", "symmetric"])
def test_scales_of_the_input_apply(normalization: str) -> None:
    for theta in ((3.0, 3.0), (3.2, 6.0)):
        ours, truth = (
            message((40, 61), theta, 21, dtype, normalization) for dtype in (torch.float32, torch.float64)
        )
        torch.testing.assert_close(ours.double(), truth, rtol=0, atol=5e-5)


def test_same_bits_for_any_number_of_threads() -> None:
    outs = []
    for count in (1, 2, 3):  # tiles of 600, 300 and 200 columns
        with threads(count):
            outs.append(message((30, 600), (5.0, 5.0), 4, torch.float32))
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])


def test_every_instruction_set_agrees() -> None:
    from crfrnn import _native

    best, outs = _native.instruction_set(), []
    try:
        for name in _native.instruction_sets():
            _native.use_instruction_set(name)
            outs.append(message((40, 90), (3.5, 7.0), 5, torch.float32))
    finally:
        _native.use_instruction_set(best)
    for out in outs[1:]:
        torch.testing.assert_close(out, outs[0], rtol=1e-5, atol=1e-5)


def test_gradients_with_those_of_the_bandwidth() -> None:
    grads = []
    for dtype in (torch.float32, torch.float64):
        crf = CRFRNN(4, theta_alpha=21.3, theta_beta=17.7, theta_gamma=3.9, iterations=3).to(dtype)
        random = torch.Generator().manual_seed(2)
        unary = torch.randn(1, 4, 30, 60, generator=random).to(dtype).requires_grad_()
        image = (255 * torch.rand(1, 3, 30, 60, generator=random)).to(dtype)
        loss = (crf(unary, image).softmax(1)[:, 0] ** 2).sum()
        grads.append(torch.autograd.grad(loss, [unary, *crf.parameters()]))
    for ours, truth in zip(*grads, strict=True):
        scale = float(truth.abs().amax()) + 1e-3
        torch.testing.assert_close(ours.double() / scale, truth / scale, rtol=0, atol=5e-4)
