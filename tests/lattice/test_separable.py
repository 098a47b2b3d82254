# SPDX-License-Identifier: MIT
"""The separable filter against the exact sum over the grid's positions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crfrnn.crf.features import grid_features
from crfrnn.lattice import Separable, exact_filter, separable, separable_filter
from crfrnn.lattice.separable import running_sums
from threads import threads

F64 = torch.float64


@given(
    grid=st.lists(st.integers(0, 6), min_size=1, max_size=3).map(tuple),
    batch=st.integers(0, 2),
    channels=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_equals_the_exact_sum(grid: tuple[int, ...], batch: int, channels: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    theta = 0.3 + 5 * torch.rand(len(grid), generator=random, dtype=F64)
    values = torch.randn(batch, math.prod(grid), channels, generator=random, dtype=F64)
    truth = exact_filter(grid_features(grid, theta).expand(batch, -1, -1), values)
    torch.testing.assert_close(Separable(grid, theta).filter(values), truth)


def test_theta_is_ordered_x_y() -> None:
    impulse = torch.zeros(1, 5, 5, 1, dtype=F64)
    impulse[0, 2, 2, 0] = 1
    out = separable_filter(impulse, torch.tensor([2.0, 1.0], dtype=F64))[0, :, :, 0]
    assert out[2, 3] == pytest.approx(math.exp(-1 / 8)) and out[3, 2] == pytest.approx(math.exp(-1 / 2))


@pytest.mark.parametrize("dense", [2, 4096])
@pytest.mark.parametrize("grid", [(5,), (3, 4), (3, 2, 2)])
def test_gradients(grid: tuple[int, ...], dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(separable, "DENSE", dense)  # 2: by FFT
    values = torch.randn(1, *grid, 2, dtype=F64, requires_grad=True)
    theta = (1 + torch.rand(len(grid), dtype=F64)).requires_grad_()
    assert torch.autograd.gradcheck(separable_filter, (values, theta), nondet_tol=0.0)
    scalar = torch.tensor(1.7, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(separable_filter, (values, scalar), nondet_tol=0.0)


def test_long_axes_go_through_the_fft() -> None:
    values = torch.rand(1, separable.DENSE + 4, 1, dtype=F64)
    out = separable_filter(values, 40.0)
    features = grid_features(values.shape[1:2], torch.tensor([40.0], dtype=F64)).unsqueeze(0)
    torch.testing.assert_close(out[:, :50], exact_filter(features, values, features[:, :50]))


def test_bad_input() -> None:
    values = torch.rand(1, 3, 4, 2)
    for theta in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"^theta: expected positive finite"):
            separable_filter(values, theta)
    with pytest.raises(ValueError, match=r"^theta: expected a number or one per axis \(2"):
        separable_filter(values, torch.ones(3))
    with pytest.raises(ValueError, match=r"^values: expected \[B, \*spatial, C\]"):
        separable_filter(values[0, 0], 1.0)
    with pytest.raises(TypeError, match=r"^values: expected a dense tensor"):
        separable_filter(torch.ones(1, 2, 3, 1).to_sparse(), 1.0)
    with pytest.raises(TypeError, match=r"^values: expected a floating"):
        separable_filter(values.long(), 1.0)
    with pytest.raises(ValueError, match=r"^values: expected \[B, 12, C\]"):
        Separable((3, 4), torch.ones(2)).filter(torch.rand(1, 11, 2))


@given(st.integers(1, 300), st.integers(2, 9))
def test_running_sums(count: int, side: int) -> None:
    numbers = torch.randn(count, dtype=torch.float64, requires_grad=True)
    ours, truth = running_sums(numbers, side), numbers.cumsum(0)
    torch.testing.assert_close(ours, truth)
    weight = torch.randn_like(truth)
    a, b = (torch.autograd.grad((out * weight).sum(), numbers) for out in (ours, truth))
    torch.testing.assert_close(a, b)


def test_mass_has_the_same_bits_for_any_number_of_threads() -> None:
    masses = []
    for count in (1, 2, 3):  # 600 pixels: enough for a multi-threaded matrix product
        with threads(count):
            masses.append(Separable((30, 600), torch.tensor([5.0, 5.0])).mass())
    assert all(torch.equal(mass, masses[0]) for mass in masses)
