# SPDX-License-Identifier: MIT
"""The colour model against the Gaussian formula and scikit-learn's mixture model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture

from crfrnn.inference.interact import Mixture


def colours(points: int = 3000) -> np.ndarray:
    rng = np.random.default_rng(4)
    parts = [
        rng.multivariate_normal(m, np.array(c), points)
        for m, c in (
            ((40, 60, 80), [[90, 30, 0], [30, 60, 10], [0, 10, 40]]),
            ((150, 90, 70), [[50, 0, 20], [0, 200, 0], [20, 0, 80]]),
            ((200, 220, 180), [[30, -10, 0], [-10, 40, 5], [0, 5, 300]]),
        )
    ]
    return np.concatenate(parts)


def test_density_is_the_formula() -> None:
    mixture = Mixture(
        torch.tensor([0.3, 0.7], dtype=torch.float64),
        torch.tensor([[10.0, 20, 30], [90, 80, 70]], dtype=torch.float64),
        torch.tensor([[[20.0, 5, 0], [5, 30, 1], [0, 1, 9]], [[50.0, 0, 0], [0, 8, 2], [0, 2, 7]]]).double(),
    )
    points = np.random.default_rng(0).uniform(0, 120, (50, 3))
    parts = [
        float(w) * multivariate_normal(m.numpy(), c.numpy()).pdf(points)
        for w, m, c in zip(mixture.weights, mixture.means, mixture.covariances, strict=True)
    ]
    found = mixture.log_density(torch.from_numpy(points))
    np.testing.assert_allclose(found, np.log(sum(parts)), rtol=1e-10)
    with_outliers = mixture.log_density(torch.from_numpy(points), 0.01)
    np.testing.assert_allclose(with_outliers, np.log(0.99 * sum(parts) + 0.01 / 256**3), rtol=1e-10)


def test_fit_is_as_likely_as_that_of_scikit_learn() -> None:
    points = colours()
    found = Mixture.fit(torch.from_numpy(points), 3, 30)
    peer = GaussianMixture(3, random_state=0, n_init=3).fit(points)
    likelihood = float(found.log_density(torch.from_numpy(points)).mean())
    assert likelihood > peer.score(points) - 0.02
    order, theirs = found.means[:, 0].argsort(), peer.means_[peer.means_[:, 0].argsort()]
    np.testing.assert_allclose(found.means[order], theirs, atol=1.0)
    assert float(found.weights.sum()) == pytest.approx(1)


def test_more_components_than_colours_and_one_pixel() -> None:
    flat = torch.full((20, 3), 77.0)
    for pixels in (flat, flat[:1], torch.cat([flat, flat + 100])):
        mixture = Mixture.fit(pixels, 5)
        assert len(mixture.weights) == len(pixels.unique(dim=0))
        assert mixture.log_density(pixels).isfinite().all()
    first, second = (Mixture.fit(torch.from_numpy(colours(500)), 4) for _ in range(2))
    assert torch.equal(first.means, second.means), "the same at every call"


def test_bad_input_is_named() -> None:
    for pixels, components, named in (
        (torch.zeros(0, 3), 2, "colours"),
        (torch.zeros(4, 3), 0, "components"),
    ):
        with pytest.raises(ValueError, match=f"^{named}: expected"):
            Mixture.fit(pixels, components)
