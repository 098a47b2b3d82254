# SPDX-License-Identifier: MIT
"""Parity with existing systems: the PyTorch port of CRF-RNN by its formulas, and pydensecrf itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dense_crf
from classic_lattice import ClassicLattice
from crfrnn import CRFRNN, GaussianKernel, Lattice, mean_field

CLASSIC = {"quality": "classic", "spatial_method": "lattice", "bilateral_method": "lattice"}


def test_classic_filter_is_the_papers_lattice():
    """Same numbers as an independent lattice, to rounding, in 1 to 6 dimensions."""
    rng = np.random.default_rng(0)
    for d in range(1, 7):
        features, values = 1.5 * rng.standard_normal((40, d)), rng.standard_normal((40, 3))
        ours = Lattice.build(torch.from_numpy(features)[None], quality="classic").filter(
            torch.from_numpy(values)[None]
        )
        np.testing.assert_allclose(ours[0].numpy(), ClassicLattice(features) @ values, atol=1e-12)


def port_of_crfrnn(unary, image, thetas, w_spatial, w_bilateral, mu, steps):
    """The public PyTorch port: x ← U + Mu·(Ws·S + Wb·B), Mu from +I, normalised after, eps 2.2e-16."""
    labels, *size = unary.shape
    alpha, beta, gamma = thetas
    filters = [
        ClassicLattice(dense_crf.positions(*size) / gamma),
        ClassicLattice(dense_crf.features(image, alpha, beta)),
    ]
    norms = [f @ np.ones((size[0] * size[1], 1)) + 2.2e-16 for f in filters]
    u = unary.reshape(labels, -1).T
    x = u
    for _ in range(steps):
        q = dense_crf.softmax(x)
        spatial, bilateral = ((f @ q) / n for f, n in zip(filters, norms, strict=True))
        x = u + (spatial @ w_spatial.T + bilateral @ w_bilateral.T) @ mu.T
    return x.T.reshape(unary.shape)


@pytest.mark.parametrize("trained", [False, True])
def test_port_of_crfrnn(trained):
    """The port's parameters in our layer: its Mu is our -compatibility, matrices act from the left."""
    rng = np.random.default_rng(4)
    unary, image = 2 * rng.standard_normal((3, 7, 8)), rng.integers(0, 256, (3, 7, 8))
    thetas = (
        5.1234,
        83.21,
        1.7321,
    )  # away from the borders between simplices, so that equal numbers can be required
    w_spatial, w_bilateral, mu = 3 * np.eye(3), 5 * np.eye(3), np.eye(3)
    if trained:
        w_spatial, w_bilateral, mu = (
            m + 0.5 * rng.standard_normal((3, 3)) for m in (w_spatial, w_bilateral, mu)
        )
    want = port_of_crfrnn(unary, image, thetas, w_spatial, w_bilateral, mu, 5)
    crf = CRFRNN(3, *thetas, label_weights="matrix", **CLASSIC).double()
    with torch.no_grad():
        for parameter, value in (
            (crf.spatial_weights, w_spatial),
            (crf.bilateral_weights, w_bilateral),
            (crf.compatibility, -mu),
            (crf.log_theta_alpha, np.log(thetas[0])),
            (crf.log_theta_beta, np.log(thetas[1])),
            (crf.log_theta_gamma, np.log(thetas[2])),
        ):
            parameter.copy_(torch.as_tensor(value))
    got = crf(torch.from_numpy(unary)[None], torch.from_numpy(image)[None].double())
    np.testing.assert_allclose(got[0].detach().numpy(), want, atol=1e-9)


@pytest.fixture(scope="module")
def photograph():
    """A 64×80 piece of a photograph, and logits of 5 labels that roughly follow its colours."""
    from skimage import data

    image = np.ascontiguousarray(data.astronaut()[20:276:4, 100:420:4])
    rng = np.random.default_rng(0)
    centres = np.array([[20, 20, 30], [220, 215, 210], [200, 120, 50], [180, 140, 120], [90, 80, 100]])
    distance = np.linalg.norm(image[..., None, :].astype(float) - centres, axis=-1) / 40
    logits = -distance + rng.standard_normal(distance.shape)
    return image, np.ascontiguousarray(logits.transpose(2, 0, 1)).astype(np.float32)


def run_pydensecrf(image, logits, spatial, bilateral, normalization, steps=5):
    """Marginals [L, H, W]; spatial = (θ_γ, compat), bilateral = (θ_α, θ_β, compat)."""
    import pydensecrf.densecrf as dcrf

    mode = {
        "none": dcrf.NO_NORMALIZATION,
        "before": dcrf.NORMALIZE_BEFORE,
        "after": dcrf.NORMALIZE_AFTER,
        "symmetric": dcrf.NORMALIZE_SYMMETRIC,
    }[normalization]
    labels, height, width = logits.shape
    model = dcrf.DenseCRF2D(width, height, labels)
    model.setUnaryEnergy(np.ascontiguousarray(-logits.reshape(labels, -1)))
    gamma, compat = spatial
    model.addPairwiseGaussian(sxy=gamma, compat=compat, normalization=mode)
    alpha, beta, compat = bilateral
    model.addPairwiseBilateral(sxy=alpha, srgb=beta, rgbim=image, compat=compat, normalization=mode)
    return np.array(model.inference(steps)).reshape(labels, height, width)


def run_ours(image, logits, spatial, bilateral, normalization, weights, mu, steps=5):
    picture = torch.from_numpy(image).permute(2, 0, 1)[None]
    options = {"method": "lattice", "quality": "classic", "normalization": normalization}
    kernels = [
        GaussianKernel.spatial(logits.shape[1:], spatial[0], **options),
        GaussianKernel.bilateral(picture, *bilateral[:2], **options),
    ]
    x = mean_field(torch.from_numpy(logits)[None], kernels, weights, mu, steps)
    return torch.softmax(x, 1)[0].numpy()


def assert_parity(ours, theirs):
    assert np.abs(ours - theirs).mean() <= 1e-3
    assert (ours.argmax(0) == theirs.argmax(0)).mean() >= 0.999


@pytest.mark.parametrize("normalization", ["none", "before", "after", "symmetric"])
@pytest.mark.parametrize("thetas", [(3.0, 80.0, 13.0), (1.0, 67.0, 3.0), (3.0, 160.0, 3.0)], ids=str)
def test_pydensecrf_scalar(photograph, normalization, thetas):
    """A scalar w is a reward for agreeing: weight w with compatibility -I."""
    gamma, alpha, beta = thetas
    scale = 0.05 if normalization == "none" else 1.0
    weights = [3.0 * scale, 5.0 * scale]
    spatial, bilateral = (gamma, weights[0]), (alpha, beta, weights[1])
    theirs = run_pydensecrf(*photograph, spatial, bilateral, normalization)
    ours = run_ours(*photograph, spatial, bilateral, normalization, weights, -torch.eye(5))
    assert_parity(ours, theirs)
    unary = torch.softmax(torch.from_numpy(photograph[1]), 0).numpy()
    assert (ours.argmax(0) != unary.argmax(0)).mean() > 0.05  # it has an effect


@pytest.mark.parametrize("normalization", ["after", "symmetric"])
def test_pydensecrf_vector(photograph, normalization):
    """A vector is added as a cost: weights v with compatibility +I."""
    vectors = [-np.array([1.0, 2.0, 3.0, 2.0, 1.0]), -np.array([5.0, 4.0, 3.0, 4.0, 5.0])]
    spatial, bilateral = (3.0, vectors[0].astype(np.float32)), (80.0, 13.0, vectors[1].astype(np.float32))
    theirs = run_pydensecrf(*photograph, spatial, bilateral, normalization)
    weights = [torch.from_numpy(v) for v in vectors]
    assert_parity(run_ours(*photograph, spatial, bilateral, normalization, weights, torch.eye(5)), theirs)


@pytest.mark.parametrize("normalization", ["after", "symmetric"])
def test_pydensecrf_matrix(photograph, normalization):
    """A matrix is a cost too, and symmetrised silently: weight (M + Mᵀ)/2 with compatibility +I."""
    rng = np.random.default_rng(2)
    matrices = [-3 * np.eye(5) + rng.standard_normal((5, 5)), -4 * np.eye(5) + rng.standard_normal((5, 5))]
    spatial, bilateral = (3.0, matrices[0].astype(np.float32)), (80.0, 13.0, matrices[1].astype(np.float32))
    theirs = run_pydensecrf(*photograph, spatial, bilateral, normalization)
    weights = [torch.from_numpy((m + m.T) / 2) for m in matrices]
    assert_parity(run_ours(*photograph, spatial, bilateral, normalization, weights, torch.eye(5)), theirs)


def test_pydensecrf_scalar_and_matrix_conventions_agree(photograph):
    """Scalar 3 equals matrix -3·I there; both are weight 3 with compatibility -I here."""
    matrix = -3 * np.eye(5, dtype=np.float32)
    one = run_pydensecrf(*photograph, (3.0, 3.0), (80.0, 13.0, 3.0), "symmetric")
    two = run_pydensecrf(*photograph, (3.0, matrix), (80.0, 13.0, matrix), "symmetric")
    np.testing.assert_allclose(one, two, atol=1e-4)


def test_layer_is_pydensecrf(photograph):
    """The module with its preset numbers, on a uint8 picture."""
    image, logits = photograph
    theirs = run_pydensecrf(image, logits, (3.0, 3.0), (160.0, 3.0, 5.0), "symmetric", steps=10)
    crf = CRFRNN(5, preset="crfasrnn", normalization="symmetric", eval_iterations=10, **CLASSIC).eval()
    with torch.no_grad():
        x = crf(torch.from_numpy(logits)[None], torch.from_numpy(image).permute(2, 0, 1)[None])
    assert_parity(torch.softmax(x, 1)[0].numpy(), theirs)
