# SPDX-License-Identifier: MIT
"""Dense CRF with whole N×N matrices: an independent reference for the engine."""

from __future__ import annotations

import numpy as np
import torch


class DenseKernel:
    """A kernel given as a matrix, Float[B, N, N]."""

    def __init__(self, matrix, is_symmetric=False, is_positive_semidefinite=False):
        self.matrix = matrix
        self.is_symmetric = is_symmetric
        self.is_positive_semidefinite = is_positive_semidefinite

    @property
    def shape(self):
        return self.matrix.shape[:2]

    @property
    def dtype(self):
        return self.matrix.dtype

    @property
    def T(self):
        return DenseKernel(self.matrix.mT)

    def __matmul__(self, values):
        return self.matrix @ values


def positions(*size):
    """Pixel coordinates in the order x, y, (z,) over a row-major grid, [N, axes]."""
    grid = np.meshgrid(*[np.arange(n) for n in size], indexing="ij")
    return np.stack([axis.ravel() for axis in reversed(grid)], 1).astype(float)


def features(image, theta_alpha, theta_beta):
    """[C, *spatial] to [N, axes + C], divided by the bandwidths."""
    colours = np.asarray(image, float).reshape(image.shape[0], -1).T
    return np.concatenate([positions(*image.shape[1:]) / theta_alpha, colours / theta_beta], 1)


def gaussian(points, exclude_self=False):
    """exp(-½|f_i - f_j|²), [N, N]."""
    matrix = np.exp(-0.5 * ((points[:, None] - points[None]) ** 2).sum(-1))
    return matrix - np.diag(np.diag(matrix)) if exclude_self else matrix


def normalised(matrix, mode):
    norm = matrix.sum(1)
    norm = np.where(norm > 0, norm, 1.0)
    return {
        "none": matrix,
        "after": matrix / norm[:, None],
        "before": matrix / norm[None],
        "symmetric": matrix / np.sqrt(norm[:, None] * norm[None]),
    }[mode]


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def relu_share(x):
    positive = np.maximum(x, 0)
    total = positive.sum(1, keepdims=True)
    return np.where(total > 0, positive / np.where(total > 0, total, 1), 1 / x.shape[1])


def as_matrix(weight, labels):
    """A number, a diagonal or a matrix as L×L."""
    weight = np.asarray(weight, float)
    return weight if weight.ndim == 2 else np.diag(np.broadcast_to(weight, (labels,)))


def mean_field(
    unary, matrices, weights, mu, steps, damping=1.0, mask=None, clamp=None, share=softmax, start=None
):
    """One picture, pixel by pixel by the formulas: unary [N, L] -> x [N, L]."""
    x = (unary if start is None else start).copy()
    for _ in range(steps):
        q = share(x)
        if clamp is not None:
            q[clamp >= 0] = np.eye(q.shape[1])[clamp[clamp >= 0]]
        if mask is not None:
            q[~mask] = 0
        message = np.zeros_like(q)
        for matrix, weight in zip(matrices, weights, strict=True):
            full = as_matrix(weight, len(mu))
            for i in range(len(q)):
                message[i] += full @ (matrix[i] @ q)
        x = (1 - damping) * x + damping * (unary - message @ mu.T)
    if mask is not None:
        x[~mask] = unary[~mask]
    return x


def grid(x, size):
    """[N, L] to a tensor [1, L, *size]."""
    return torch.from_numpy(np.ascontiguousarray(x.T.reshape(1, -1, *size)))
