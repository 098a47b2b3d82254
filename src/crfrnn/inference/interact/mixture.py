# SPDX-License-Identifier: MIT
"""The colours of a region as a mixture of Gaussians, fitted by expectation maximisation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_FLOOR = 4.0  # variance in colour steps² from rounding and JPEG, also in flat regions
_MOST = 10_000  # most pixels to fit a mixture to; more make no visible difference
_RANGE = 256.0


@dataclass(frozen=True)
class Mixture:
    """``p(c) = Σ_k π_k N(c; μ_k, Σ_k)``, full covariances.

    Attributes:
        weights: Float[K], π, sum 1.
        means: Float[K, C], in colour steps of 0..255.
        covariances: Float[K, C, C].
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor

    @classmethod
    def fit(cls, colours: Tensor, components: int = 5, iterations: int = 10) -> Mixture:
        """Fit a mixture to pixels, deterministically.

        Starts from clusters found by repeatedly splitting the longest cluster along its longest axis (Orchard
        & Bouman 1991, as in GrabCut), then alternates expectation and maximisation.

        Args:
            colours: Float[N, C], N ≥ 1, in colour steps of 0..255.
            components: largest K; fewer if the pixels have fewer colours.
            iterations: iterations of EM; 0 keeps the clusters.

        Source: Dempster, Laird & Rubin, JRSS B 1977; Rother, Kolmogorov & Blake, *GrabCut*, SIGGRAPH 2004,
        doi:10.1145/1015706.1015720, section 3.1.

        >>> Mixture.fit(torch.tensor([[0.0], [2.0], [100.0], [102.0]]), 2).means.sort(0).values.flatten()
        tensor([  1., 101.])
        """
        if colours.ndim != 2 or len(colours) == 0:
            raise ValueError(f"colours: expected [N, C] with at least one pixel, got {tuple(colours.shape)}")
        if components < 1:
            raise ValueError(f"components: expected at least 1, got {components}")
        step = -(-len(colours) // _MOST)
        points = colours[::step].double()
        centre = points.mean(0)
        points = points - centre
        belongs = torch.nn.functional.one_hot(_split(points, components)).double().T
        mixture = cls._maximised(points, belongs)
        for _ in range(iterations):
            mixture = cls._maximised(points, mixture._joint(points).softmax(0))
        found = (mixture.weights, mixture.means + centre, mixture.covariances)
        return cls(*(tensor.to(colours.dtype) for tensor in found))

    @classmethod
    def _maximised(cls, points: Tensor, belongs: Tensor) -> Mixture:
        """The maximisation step. Args: points Float[N, C], mean 0; belongs Float[K, N], sum 1 over K."""
        mass = belongs.sum(1)
        kept = mass > 1e-6 * len(points)
        belongs, mass = belongs[kept], mass[kept]
        means = (belongs @ points) / mass[:, None]
        squares = (belongs[:, None] * points.T) @ points / mass[:, None, None]
        covariances = squares - means[:, :, None] * means[:, None]
        covariances += _FLOOR * torch.eye(points.shape[1], dtype=points.dtype)
        return cls(mass / mass.sum(), means, covariances)

    def log_density(self, colours: Tensor, outliers: float = 0.0) -> Tensor:
        """``log((1 - o) p(c) + o / 256^C)``, Float[N], of colours Float[N, C].

        Args:
            colours: in colour steps of 0..255.
            outliers: o in [0, 1), the share of pixels of arbitrary colour; bounds the log-density of unseen
                colours.

        >>> one = Mixture(torch.ones(1), torch.zeros(1, 1), torch.full((1, 1, 1), 4.0))
        >>> round(float(one.log_density(torch.zeros(1, 1))), 4)  # -log(2 √(2π))
        -1.6121
        """
        density = self._joint(colours).logsumexp(0)
        if not outliers:
            return density
        anything = math.log(outliers) - colours.shape[1] * math.log(_RANGE)
        return torch.logaddexp(density + math.log1p(-outliers), density.new_tensor(anything))

    def _joint(self, colours: Tensor) -> Tensor:
        """log(π_k N(c; μ_k, Σ_k)), Float[K, N]."""
        factor = torch.linalg.cholesky(self.covariances)
        whitening = torch.linalg.inv(factor)
        middle = self.means.mean(0)  # subtracted first to keep the precision of differences to the means
        away = whitening @ (colours - middle).T - whitening @ (self.means - middle)[:, :, None]
        logdet = factor.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = colours.shape[1] / 2 * math.log(2 * math.pi)
        return (self.weights.log() - logdet - constant)[:, None] - away.square_().sum(1) / 2


def _split(points: Tensor, components: int) -> Tensor:
    """Cluster of each point, Int64[N], numbered without gaps."""
    clusters = torch.zeros(len(points), dtype=torch.int64)
    for number in range(1, components):
        longest, axis, centre, length = 0, points[0], points[0], 0.0
        for k in range(number):
            own = points[clusters == k]
            values, vectors = torch.linalg.eigh(torch.cov(own.T, correction=0).reshape(2 * own.shape[1:]))
            # times the number of points: the split that reduces the squared error most
            if float(values[-1]) * len(own) > length:
                length, longest = float(values[-1]) * len(own), k
                axis, centre = vectors[:, -1], own.mean(0)
        if length <= 1e-6 * len(points):  # the pixels have no further colours
            break
        clusters[(clusters == longest) & ((points - centre) @ axis > 0)] = number
    return clusters
