# SPDX-License-Identifier: MIT
"""One logit per pixel, and labels that overlap: both are problems of two labels, solved here one by one."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.autograd import gradcheck
from torch.func import functional_call

from crfrnn import CRFRNN, GaussianKernel, dense_crf_loss, mean_field, robust_log_likelihood
from crfrnn.crf.binary import for_two_labels, two_labels
from layers import EXACT, inputs, shaken

SIZE = (5, 6)


def pair(z):
    return torch.cat([torch.zeros_like(z), z], 1)


@pytest.mark.parametrize("options", [{}, {**EXACT, "label_weights": "matrix", "theta_beta": 100.0}])
def test_one_logit_is_the_difference_of_two_labels(options):
    """As CRFRNN(2) on [0, z] with the same parameters: in training, under mask and clamp, in every mode."""
    z, image = inputs(labels=1, size=SIZE, dtype=torch.float64)
    crf = shaken(CRFRNN(1, temperature=2.0, **options)).double()
    two = CRFRNN(2, temperature=2.0, **options).double()
    two.load_state_dict(crf.state_dict())
    mask = torch.rand(2, *SIZE) > 0.3
    clamp = torch.randint(-1, 2, (2, *SIZE))
    z = z.requires_grad_()
    for given in ({}, {"mask": mask}, {"clamp": clamp}, {"iterations": 0}):
        out, both = crf(z, image, **given), two(pair(z), image, **given)
        assert out.shape == z.shape
        torch.testing.assert_close(out, both[:, 1:] - both[:, :1])
        ours = torch.autograd.grad(out.sigmoid().sum(), [z, *crf.parameters()], allow_unused=True)
        theirs = torch.autograd.grad(both.softmax(1)[:, 1].sum(), [z, *two.parameters()], allow_unused=True)
        torch.testing.assert_close(ours, theirs)
    out = crf(z, image, clamp=clamp)
    assert out[:, 0][clamp == 1].unique().tolist() == [100.0]
    assert out[:, 0][clamp == 0].unique().tolist() == [-100.0]
    hidden = z.detach().masked_fill(~mask.unsqueeze(1), torch.nan)
    assert crf(hidden, image, mask=mask).isnan().equal(hidden.isnan())


def test_one_logit_with_its_gradient_checked():
    z, image = inputs(1, (2, 3), labels=1, dtype=torch.float64)
    crf = shaken(CRFRNN(1, theta_beta=100.0, iterations=2, **EXACT)).double()
    names, values = zip(*crf.named_parameters(), strict=True)

    def solve(z, *parameters):
        return functional_call(crf, dict(zip(names, parameters, strict=True)), (z, image))

    assert gradcheck(solve, (z.requires_grad_(), *values))


def test_a_sigmoid_network_learns_through_it():
    """A disk in noise: the single channel's evidence must be kept, and the layer's weights must change."""
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    truth = ((rows - 11) ** 2 + (columns - 12) ** 2 < 49).float()[None, None]
    image = 40 + 160 * truth.expand(-1, 3, -1, -1)
    z = (2 * truth - 1) + 2 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    crf = CRFRNN(1, theta_alpha=5.0)
    network = torch.nn.Conv2d(1, 1, 1)
    steps = torch.optim.Adam([*crf.parameters(), *network.parameters()], 0.05)
    losses = []
    for _ in range(15):
        out = crf(network(z), image)
        losses.append(torch.nn.functional.binary_cross_entropy_with_logits(out, truth))
        steps.zero_grad()
        losses[-1].backward()
        steps.step()
    assert losses[-1] < 0.5 * losses[0]
    right = float(((crf(network(z), image) > 0) == (truth > 0.5)).float().mean())
    assert right > 0.98 > float(((z > 0) == (truth > 0.5)).float().mean()) + 0.2


@pytest.mark.parametrize("normalization", ["none", "before", "after", "symmetric"])
def test_overlapping_labels_are_problems_of_two_labels_each(normalization):
    """L separate CRFRNN(2) on [0, z_l] with that label's weight, in float64 with exact kernels."""
    labels = 3
    z, image = inputs(labels=labels, size=SIZE, dtype=torch.float64)
    options = {"normalization": normalization, "theta_alpha": 3.0, "theta_beta": 90.0, **EXACT}
    crf = CRFRNN(labels, activation="sigmoid", damping=0.8, **options).double()
    weights = torch.tensor([[0.3, 0.9, 1.7], [2.0, 0.5, 1.1]], dtype=torch.float64)
    with torch.no_grad():
        crf.spatial_weights.copy_(weights[0])
        crf.bilateral_weights.copy_(weights[1])
    mask = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(3)) > 0.2
    for given in ({}, {"mask": mask}):
        out = crf(z, image, **given)
        for k in range(labels):
            one = CRFRNN(2, damping=0.8, **options).double()
            with torch.no_grad():
                one.spatial_weights.fill_(float(weights[0, k]))
                one.bilateral_weights.fill_(float(weights[1, k]))
            both = one(pair(z[:, k : k + 1]), image, **given)
            torch.testing.assert_close(out[:, k], both[:, 1] - both[:, 0], rtol=1e-12, atol=1e-12)


def test_overlapping_labels_have_gradients_and_a_fixed_point():
    z, image = inputs(1, (2, 3), labels=2, dtype=torch.float64)
    crf = shaken(CRFRNN(2, theta_beta=100.0, iterations=3, activation="sigmoid", **EXACT)).double()
    names, values = zip(*crf.named_parameters(), strict=True)

    def solve(z, *parameters):
        return functional_call(crf, dict(zip(names, parameters, strict=True)), (z, image))

    assert gradcheck(solve, (z.requires_grad_(), *values))
    settings = ([], [], -torch.eye(2, dtype=torch.float64))
    assert torch.equal(mean_field(z, *settings, 4, activation="sigmoid", gradient="implicit"), z)


def test_overlapping_labels_refuse_a_clamp():
    z, image = inputs(1, labels=2)
    crf = CRFRNN(2, activation="sigmoid")
    with pytest.raises(ValueError, match=r"clamp: .*sigmoid.*100 where a label is present") as error:
        crf(z, image, clamp=torch.zeros(1, *SIZE, dtype=torch.long))
    assert "-100" in str(error.value)
    z[:, 1, 0, 0], z[:, 1, 4, 5] = 100, -100  # the remedy
    out = crf(z, image)
    assert out[0, 1, 0, 0] > 50 and out[0, 1, 4, 5] < -50
    with pytest.raises(ValueError, match="overlap"):
        for_two_labels(crf)


def test_the_view_of_two_labels_shares_the_parameters():
    crf = CRFRNN(1)
    twin = for_two_labels(crf)
    assert (twin.num_labels, crf.num_labels) == (2, 1)
    assert all(a is b for a, b in zip(crf.parameters(), twin.parameters(), strict=True))
    several = CRFRNN(3)
    assert for_two_labels(several) is several
    assert two_labels(torch.ones(3, 2, 2)).shape == (3, 2, 2)


def test_a_single_channel_elsewhere_is_named():
    z, image = inputs(1, labels=1)
    with pytest.raises(ValueError, match=r"expected 2 labels.*CRFRNN\(1, ...\), which takes one logit z"):
        CRFRNN(2)(z, image)
    kernel = GaussianKernel.spatial(SIZE, 2.0)
    with pytest.warns(UserWarning, match=r"only marginal is 1 everywhere.*CRFRNN\(1\).*torch.cat"):
        mean_field(z, [kernel], [1.0], -torch.eye(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean_field(z, [kernel], [1.0], -torch.eye(1), activation="sigmoid")
        CRFRNN(1)(z, image)


def test_losses_read_a_single_channel_as_two_labels():
    z, _ = inputs(2, labels=1)
    truth = torch.randint(0, 2, (2, *SIZE))
    loss = robust_log_likelihood(z, truth, robustness=0.0)
    want = torch.nn.functional.binary_cross_entropy_with_logits(z[:, 0], truth.float())
    torch.testing.assert_close(loss, want)
    kernels = [GaussianKernel.spatial(SIZE, 2.0, normalization="none")]
    torch.testing.assert_close(dense_crf_loss(z, kernels, [1.0]), dense_crf_loss(pair(z), kernels, [1.0]))
