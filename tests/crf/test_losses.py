# SPDX-License-Identifier: MIT
"""Losses against their formulas written out, and their derivatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.nn.functional import cross_entropy

import dense_crf
from crfrnn import GaussianKernel, dense_crf_loss, robust_log_likelihood
from dense_crf import DenseKernel

SIZE, LABELS = (3, 4), 3


@pytest.fixture
def logits():
    return torch.randn(2, LABELS, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def target():
    target = torch.randint(LABELS, (2, *SIZE), generator=torch.Generator().manual_seed(1))
    target[0, 0, :2] = 255
    return target


def test_without_robustness_it_is_the_cross_entropy(logits, target):
    for reduction in ("mean", "sum", "none"):
        torch.testing.assert_close(
            robust_log_likelihood(logits, target, robustness=0.0, reduction=reduction),
            cross_entropy(logits, target, ignore_index=255, reduction=reduction),
        )


def test_robust_formula(logits, target):
    q = torch.softmax(logits, 1).numpy()
    want = [
        -np.log(q[b, target[b, i, j], i, j] + 0.05)
        for b in range(2)
        for i in range(SIZE[0])
        for j in range(SIZE[1])
        if target[b, i, j] != 255
    ]
    np.testing.assert_allclose(robust_log_likelihood(logits, target, robustness=0.05).item(), np.mean(want))


def test_robust_extremes():
    hopeless = torch.tensor([[[1000.0], [0.0]]], requires_grad=True)
    loss = robust_log_likelihood(hopeless, torch.tensor([[1]]), robustness=0.01)
    torch.testing.assert_close(loss.item(), float(-np.log(0.01)), rtol=1e-6, atol=0)
    loss.backward()
    assert torch.isfinite(hopeless.grad).all() and hopeless.grad.abs().max() < 1e-6
    void = torch.full((1, 2), 255)
    assert robust_log_likelihood(torch.zeros(1, 2, 2), void).item() == 0.0
    assert robust_log_likelihood(torch.zeros(0, 2, 2), torch.zeros(0, 2, dtype=torch.long)).item() == 0.0


def test_robust_gradcheck(logits, target):
    assert gradcheck(lambda x: robust_log_likelihood(x, target), logits.requires_grad_(), nondet_tol=0)


def dense_value(s, matrices, weights, cut):
    """R(S) of one picture, label by label: S [N, L]."""
    total, ones = 0.0, np.ones(len(s))
    for label in range(s.shape[1]):
        pay = sum(
            np.broadcast_to(w, LABELS)[label] * s[:, label] @ k @ (1 - s[:, label])
            for k, w in zip(matrices, weights, strict=True)
        )
        volume = sum(
            np.broadcast_to(w, LABELS)[label] * ones @ k @ s[:, label]
            for k, w in zip(matrices, weights, strict=True)
        )
        total += pay / volume if cut else pay
    return total


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_dense_crf_formula(logits, cut, masked):
    rng = np.random.default_rng(0)
    matrices = [rng.random((12, 12)), rng.random((12, 12))]
    weights = [0.5, np.array([1.0, 2.0, 0.3])]
    keep = rng.random((2, 12)) > 0.3 if masked else np.ones((2, 12), bool)
    s = torch.softmax(logits, 1).flatten(2).mT.numpy()
    want = [
        dense_value(s[b][keep[b]], [m[np.ix_(keep[b], keep[b])] for m in matrices], weights, cut)
        for b in range(2)
    ]
    kernels = [DenseKernel(torch.from_numpy(m).expand(2, -1, -1)) for m in matrices]
    weights = [0.5, torch.from_numpy(weights[1])]
    options = {"mask": torch.from_numpy(keep.reshape(2, *SIZE)) if masked else None, "normalized_cut": cut}
    got = {
        r: dense_crf_loss(logits, kernels, weights, reduction=r, **options) for r in ("none", "sum", "mean")
    }
    np.testing.assert_allclose(got["none"], want, rtol=1e-12)
    np.testing.assert_allclose(got["sum"], np.sum(want), rtol=1e-12)
    scale = np.ones(2) if cut else keep.sum(1)
    np.testing.assert_allclose(got["mean"], np.mean(np.array(want) / scale), rtol=1e-12)


@pytest.mark.parametrize("cut", [False, True])
def test_dense_crf_gradcheck_with_the_picture(logits, cut):
    torch.manual_seed(0)
    image = (torch.rand(2, 3, *SIZE, dtype=torch.float64) * 255).requires_grad_()
    theta = torch.tensor(60.123, dtype=torch.float64, requires_grad=True)

    def loss(x, image, theta):
        kernel = GaussianKernel.bilateral(image, 2.3, theta, method="exact", normalization="none")
        return dense_crf_loss(x, [kernel], [1.0], normalized_cut=cut)

    assert gradcheck(loss, (logits.requires_grad_(), image, theta), nondet_tol=0)


def test_dense_crf_prefers_cuts_along_edges():
    image = torch.zeros(1, 3, 6, 6)
    image[..., 3:] = 200.0
    kernel = GaussianKernel.bilateral(image, 5.0, 20.0, method="exact", normalization="none")
    column = torch.arange(6).expand(1, 6, 6)

    def price(split):
        inside = torch.where(column < split, 8.0, -8.0)
        return dense_crf_loss(torch.stack([inside, -inside], 1), [kernel], [1.0]).item()

    assert price(3) < 0.05 * min(price(2), price(4))


def test_bad_input(logits, target):
    kernel = dense_crf.DenseKernel(torch.ones(2, 12, 12, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"target: expected labels 0\.\.2 or 255, got 7.*ignore_index"):
        robust_log_likelihood(logits, target.masked_fill(target == 255, 7))
    with pytest.raises(TypeError, match="target: expected integer labels"):
        robust_log_likelihood(logits, target.float())
    with pytest.raises(ValueError, match="robustness"):
        robust_log_likelihood(logits, target, robustness=-0.1)
    with pytest.raises(ValueError, match="reduction"):
        robust_log_likelihood(logits, target, reduction="average")
    with pytest.raises(ValueError, match=r"weights.*labels do not mix"):
        dense_crf_loss(logits, [kernel], [torch.eye(3, dtype=torch.float64)])
    with pytest.raises(ValueError, match=r"logits: expected \[B, L, \*spatial\]"):
        dense_crf_loss(logits[0, 0], [kernel], [1.0])


@pytest.mark.parametrize("normalized_cut", [False, True])
def test_autocast_rounds_no_message_of_the_loss(logits, normalized_cut):
    kernel = GaussianKernel.spatial(SIZE, 1.5, normalization="none")
    want = dense_crf_loss(logits.float(), [kernel], [1.0], normalized_cut=normalized_cut)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(
            dense_crf_loss(logits.float(), [kernel], [1.0], normalized_cut=normalized_cut), want
        )
