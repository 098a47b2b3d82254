# SPDX-License-Identifier: MIT
"""Energies against enumeration of all labellings; free energy that never rises."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import dense_crf
from crfrnn import GaussianKernel, free_energy, free_energy_trace, gibbs_energy, mean_field, monotone_damping
from dense_crf import DenseKernel

SIZE, LABELS = (2, 3), 3


def tiny(seed=0):
    """Unary, two symmetric kernels without self term, weights (number, matrix), symmetric compatibility."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (3, *SIZE))
    matrices = [
        dense_crf.gaussian(dense_crf.positions(*SIZE) / 1.1, exclude_self=True),
        dense_crf.normalised(
            dense_crf.gaussian(dense_crf.features(image, 2.0, 80.0), exclude_self=True), "symmetric"
        ),
    ]
    mu = rng.standard_normal((LABELS, LABELS))
    mu = mu + mu.T
    # μ W must be symmetric: a multiple of the identity, and a polynomial of μ.
    weights = [0.7, 0.3 * mu + 0.5 * np.eye(LABELS)]
    return rng.standard_normal((LABELS, *SIZE)), matrices, weights, mu


def as_torch(matrices, weights, mu):
    kernels = [DenseKernel(torch.from_numpy(m)[None], is_symmetric=True) for m in matrices]
    weights = [torch.as_tensor(w, dtype=torch.float64) for w in weights]
    return kernels, weights, torch.from_numpy(mu)


def all_labellings():
    return np.array(list(itertools.product(range(LABELS), repeat=SIZE[0] * SIZE[1])))


def energy_by_pairs(x, unary, matrices, weights, mu):
    """The paper's eq. 1, pair by pair over i < j."""
    u = unary.reshape(LABELS, -1)
    total = -sum(u[x[i], i] for i in range(len(x)))
    for i, j in itertools.combinations(range(len(x)), 2):
        for k, w in zip(matrices, weights, strict=True):
            total += (mu @ dense_crf.as_matrix(w, LABELS))[x[i], x[j]] * k[i, j]
    return total


def test_gibbs_energy_is_the_sum_over_pairs():
    unary, *model = tiny()
    some = all_labellings()[::37]
    want = [energy_by_pairs(x, unary, *model) for x in some]
    batch = torch.from_numpy(unary).expand(len(some), -1, -1, -1)
    got = gibbs_energy(torch.from_numpy(some.reshape(-1, *SIZE)), batch, *as_torch(*model))
    np.testing.assert_allclose(got.numpy(), want, atol=1e-12)


def test_free_energy_is_divergence_minus_log_partition():
    """F(Q) = KL(Q ‖ P) - log Z over all 3⁶ labellings."""
    unary, *model = tiny()
    labellings = all_labellings()
    energies = np.array([energy_by_pairs(x, unary, *model) for x in labellings])
    log_z = np.logaddexp.reduce(-energies)
    logits = np.random.default_rng(3).standard_normal((LABELS, 6))
    log_q = logits - np.logaddexp.reduce(logits, 0)
    joint = log_q[labellings, np.arange(6)].sum(1)
    divergence = (np.exp(joint) * (joint + energies + log_z)).sum()
    got = free_energy(
        torch.from_numpy(logits.reshape(1, LABELS, *SIZE)), torch.from_numpy(unary)[None], *as_torch(*model)
    )
    np.testing.assert_allclose(got.item(), divergence - log_z, atol=1e-12)
    assert divergence > 0


def test_fixed_point_is_stationary():
    """At the fixed point the gradient of F over natural parameters vanishes."""
    unary, matrices, weights, mu = tiny()
    kernels, weights, mu = as_torch(matrices, [0.2, 0.1 * np.eye(LABELS)], mu)
    unary = torch.from_numpy(unary)[None]
    logits = mean_field(unary, kernels, weights, mu, 300).requires_grad_()
    (slope,) = torch.autograd.grad(free_energy(logits, unary, kernels, weights, mu).sum(), logits)
    assert slope.abs().max() < 1e-12


def test_one_hot_marginals_have_the_energy_of_their_labelling():
    unary, *model = tiny()
    unary, model = torch.from_numpy(unary)[None], as_torch(*model)
    labels = torch.tensor([[[0, 2, 1], [1, 1, 0]]])
    certain = torch.where(
        torch.arange(LABELS)[None, :, None, None] == labels.unsqueeze(1), 0.0, -torch.inf
    ).double()
    torch.testing.assert_close(free_energy(certain, unary, *model), gibbs_energy(labels, unary, *model))
    torch.testing.assert_close(
        free_energy(unary, unary, *model, clamp=labels), gibbs_energy(labels, unary, *model)
    )


def test_mask_leaves_pixels_out():
    unary, matrices, weights, mu = tiny()
    mask = torch.ones(1, *SIZE, dtype=torch.bool)
    mask[..., 2] = False
    keep = [0, 1, 3, 4]
    small = as_torch([m[np.ix_(keep, keep)] for m in matrices], weights, mu)
    whole = as_torch(matrices, weights, mu)
    u = torch.from_numpy(unary)[None]
    labels = torch.tensor([[[0, 2, 255], [1, 1, 255]]])
    torch.testing.assert_close(
        gibbs_energy(labels, u, *whole, mask=mask), gibbs_energy(labels[..., :2], u[..., :2], *small)
    )
    torch.testing.assert_close(
        free_energy_trace(u, *whole, 3, mask=mask), free_energy_trace(u[..., :2], *small, 3)
    )


GRID = (9, 11)


def gaussian_kernels(which):
    """Symmetric kernels of a random picture: exact, or a lattice made symmetric."""
    torch.manual_seed(5)
    image = torch.rand(1, 3, *GRID, dtype=torch.float64) * 255
    mode = which.split()[1]
    if which.startswith("exact"):
        options = {"method": "exact", "normalization": mode}
        kernels = [
            GaussianKernel.spatial(GRID, torch.tensor(1.7, dtype=torch.float64), **options),
            GaussianKernel.bilateral(image, 3.1, 71.0, **options),
        ]
    else:
        options = {"method": "lattice", "normalization": mode}
        kernels = [
            GaussianKernel.spatial(GRID, torch.tensor(1.7, dtype=torch.float64), **options).symmetrized(),
            GaussianKernel.bilateral(image, 3.1, 71.0, **options).symmetrized(),
        ]
    return kernels


def compatibilities(size):
    rng = torch.Generator().manual_seed(2)
    mixed = torch.randn(size, size, generator=rng, dtype=torch.float64)
    eye = torch.eye(size, dtype=torch.float64)
    return {"attractive": -eye, "repulsive": eye, "mixed": mixed + mixed.T}


@pytest.mark.slow
@pytest.mark.parametrize("which", ["exact none", "exact symmetric", "lattice none", "lattice symmetric"])
@pytest.mark.parametrize("kind", ["attractive", "repulsive", "mixed"])
def test_free_energy_never_rises(which, kind):
    kernels, labels = gaussian_kernels(which), 4
    mu, weights = compatibilities(labels)[kind], [3.0, 5.0]
    torch.manual_seed(1)
    unary = 2 * torch.randn(1, labels, *GRID, dtype=torch.float64)
    damping = monotone_damping(kernels, weights, mu)
    assert 0 < damping <= 1
    for initial in (None, 4 * torch.randn_like(unary), torch.roll(unary, 3, 1)):
        trace = free_energy_trace(unary, kernels, weights, mu, 25, damping=damping, initial=initial)
        assert trace.shape == (26, 1)
        rises = trace.diff(dim=0).max().item()
        assert rises <= 1e-10 * trace.abs().max().item()
        assert trace[-1] < trace[0]


def test_damping_is_needed_and_not_wasted():
    """Repulsion undamped oscillates and F rises; attraction on a semidefinite kernel needs no damping."""
    matrix = torch.from_numpy(dense_crf.gaussian(dense_crf.positions(1, 12) / 3))[None]
    kernel = [DenseKernel(matrix, is_symmetric=True, is_positive_semidefinite=True)]
    eye = torch.eye(2, dtype=torch.float64)
    assert monotone_damping(kernel, [5.0], -eye) == 1.0
    damping = monotone_damping(kernel, [5.0], eye)
    unary = 0.1 * torch.randn(1, 2, 1, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert free_energy_trace(unary, kernel, [5.0], eye, 20).diff(dim=0).max() > 1.0
    assert free_energy_trace(unary, kernel, [5.0], eye, 20, damping=damping).diff(dim=0).max() <= 1e-12
    # λ₊ is weight × spectral radius here, and the bound on the radius is tight to a few per cent.
    radius = torch.linalg.eigvalsh(matrix).max().item()
    assert 4 / (2 + 5 * radius) >= damping >= 4 / (2 + 5 * 1.1 * radius)


def test_where_no_free_energy_exists():
    unary, matrices, weights, mu = tiny()
    u = torch.from_numpy(unary)[None]
    kernels, weights, mu = as_torch(matrices, weights, mu)
    asymmetric = mu.clone()
    asymmetric[0, 1] += 0.1
    for call in (
        lambda *m: free_energy(u, u, *m),
        lambda *m: free_energy_trace(u, *m, 2),
        lambda *m: gibbs_energy(torch.zeros(1, *SIZE, dtype=torch.long), u, *m),
        monotone_damping,
    ):
        with pytest.raises(ValueError, match=r"compatibility @ weights\[0\].*symmetric"):
            call(kernels, weights, asymmetric)
        with pytest.raises(ValueError, match=r"weights\[1\].*one weight for all labels"):
            call(kernels, [1.0, torch.tensor([1.0, 2.0, 3.0])], mu)
        with pytest.raises(ValueError, match=r"kernels\[1\].*symmetrized"):
            call([kernels[0], DenseKernel(kernels[1].matrix)], weights, mu)


@pytest.mark.parametrize("normalization", ["after", "before"])
def test_normalisations_without_free_energy(normalization):
    kernel = GaussianKernel.spatial(GRID, 1.5, method="exact", normalization=normalization)
    unary = torch.zeros(1, 2, *GRID)
    with pytest.raises(ValueError, match=r"kernels\[0\].*normalization"):
        free_energy(unary, unary, [kernel], [1.0], -torch.eye(2))


def test_autocast_rounds_no_energy():
    unary, matrices, weights, mu = tiny()
    kernels = [DenseKernel(torch.from_numpy(m).float()[None], is_symmetric=True) for m in matrices]
    unary, mu = torch.from_numpy(unary).float()[None], torch.from_numpy(mu).float()
    weights = [torch.as_tensor(w).float() for w in weights]

    def both():
        return (
            gibbs_energy(unary.argmax(1), unary, kernels, weights, mu),
            free_energy(unary, unary, kernels, weights, mu),
        )

    want = both()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(map(torch.equal, both(), want))


@pytest.mark.parametrize(
    ("logits", "error", "said"),
    [
        (torch.full((1, 2, 3), torch.nan), ValueError, "logits: .* 6 infinite or NaN"),
        (torch.full((1, 2, 3), torch.inf), ValueError, "logits: .* 6 infinite; give what mean_field"),
        (torch.zeros(1, 2, 3, dtype=torch.long), TypeError, "logits: expected floating-point"),
        (torch.zeros(1, 2, 4), ValueError, r"logits: expected the shape of unary \(1, 2, 3\)"),
    ],
)
def test_logits_without_a_free_energy(logits, error, said):
    with pytest.raises(error, match=said):
        free_energy(logits, torch.zeros(1, 2, 3), [], [], -torch.eye(2))


@pytest.mark.parametrize(
    ("mu", "error", "said"),
    [
        (-torch.eye(2) * torch.nan, ValueError, "compatibility: expected finite"),
        (torch.eye(2) * 1j, TypeError, "compatibility: expected real numbers"),
        (torch.eye(2) > 0, TypeError, "compatibility: expected real numbers, got bool"),
    ],
)
def test_compatibilities_without_a_step_size(mu, error, said):
    with pytest.raises(error, match=said):
        monotone_damping([GaussianKernel.spatial((2, 2), 1.0, normalization="symmetric")], [1.0], mu)
