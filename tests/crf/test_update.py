# SPDX-License-Identifier: MIT
"""One update over rows of labels: against mean field, plain torch, itself in place and with other threads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crfrnn import _native
from crfrnn.crf import GaussianKernel, mean_field
from crfrnn.crf.update import update
from threads import threads

GRID = (9, 14)


def problem(labels: int, normalization: str, masked: bool = False) -> tuple[Tensor, Tensor, list, list]:
    image = torch.rand(1, 3, *GRID) * 255
    mask = torch.rand(1, *GRID) > 0.3 if masked else None
    kernels = [
        GaussianKernel.spatial(GRID, 2.0, "lattice", normalization, mask=mask, dtype=torch.float32),
        GaussianKernel.bilateral(image, 8.0, 40.0, "lattice", normalization, mask=mask),
    ]
    costs = [torch.rand(labels), torch.randn(labels, labels)]
    unary = 2 * torch.randn(image[0, 0].numel(), labels)
    return unary, torch.randn_like(unary).softmax(-1), kernels, costs


@pytest.mark.filterwarnings("ignore:.*only marginal is 1 everywhere")
@pytest.mark.parametrize("normalization", ["none", "before", "after", "symmetric"])
@pytest.mark.parametrize("labels", [1, 2, 16, 21, 40])
def test_equals_an_iteration_of_mean_field(labels: int, normalization: str) -> None:
    unary, marginals, kernels, costs = problem(labels, normalization)

    def planes(rows: Tensor) -> Tensor:
        return rows.T.reshape(1, labels, *GRID)

    eye = torch.eye(labels)
    expected = mean_field(planes(unary), kernels, costs, eye, 1, initial=planes(marginals.log()))
    x = update(unary, marginals, kernels, costs, normalize=False)
    torch.testing.assert_close(planes(x), expected, atol=1e-4, rtol=1e-4)
    q = update(unary, marginals, kernels, costs)
    torch.testing.assert_close(q, x.softmax(-1), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("normalize", [True, False])
def test_plain_torch_gives_the_same(normalize: bool) -> None:
    unary, marginals, kernels, costs = problem(
        5, "symmetric", masked=True
    )  # masks are not supported natively
    masked = update(unary, marginals, kernels, costs, normalize)
    first, second = ((kernel @ marginals[None])[0] for kernel in kernels)
    x = unary - costs[0] * first - torch.einsum("lk,nk->nl", costs[1], second)
    torch.testing.assert_close(masked, x.softmax(-1) if normalize else x, atol=1e-5, rtol=1e-5)


def test_in_place_and_with_any_number_of_threads() -> None:
    unary, marginals, kernels, costs = problem(21, "symmetric")
    alone = update(unary, marginals, kernels, costs)
    with threads(3):
        apart = update(unary, marginals, kernels, costs)
    assert update(unary, marginals, kernels, costs, out=marginals) is marginals
    assert torch.equal(apart, marginals) and torch.equal(apart, alone)


def test_no_kernels() -> None:
    unary, marginals, _, _ = problem(3, "none")
    assert torch.equal(update(unary, marginals, [], [], normalize=False), unary)


def test_the_native_core_refuses_mismatched_input() -> None:
    unary, marginals, kernels, _ = problem(3, "none")
    lattice = kernels[0].operator
    costs, out = torch.zeros(1, 3, 3), torch.empty_like(unary)

    def native(kernel: _native.Kernel, points: int = len(unary)) -> _native.Problem:
        return _native.Problem(
            kernels=[kernel],
            transform=costs,
            batch=1,
            grid=[1, 1, points],
            iterations=1,
            damping=1.0,
            threads=1,
        )

    own = _native.Kernel.lattice(lattice.weights, lattice.structure[0])
    with pytest.raises(ValueError, match="of the problem"):
        _native.update(native(own), unary, marginals[:-1].contiguous(), True, out)
    with pytest.raises(ValueError, match="other memory"):
        _native.update(native(own), unary, marginals, False, marginals)
    with pytest.raises(ValueError, match="lattices"):
        _native.update(native(_native.Kernel.separable([1.0, 1.0, 1.0])), unary, marginals, True, out)
    with pytest.raises(ValueError, match="other points"):
        native(own, len(unary) - 1)
