# SPDX-License-Identifier: MIT
"""The exact filter against its dense formula."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crfrnn.lattice import Exact, exact_filter, reference

F64 = torch.float64


def dense(features: torch.Tensor, queries: torch.Tensor | None = None) -> torch.Tensor:
    queries = features if queries is None else queries
    return torch.exp(-0.5 * (queries[:, :, None] - features[:, None]).square().sum(-1))


@given(
    batch=st.integers(0, 3),
    points=st.integers(0, 20),
    dimension=st.integers(1, 10),
    channels=st.integers(0, 4),
    block=st.integers(1, 500),
)
def test_equals_the_formula_for_any_block_size(
    batch: int, points: int, dimension: int, channels: int, block: int
) -> None:
    features = torch.randn(batch, points, dimension, dtype=F64)
    values = torch.randn(batch, points, channels, dtype=F64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "BLOCK", block)
        out = exact_filter(features, values)
    torch.testing.assert_close(out, dense(features) @ values)


def test_queries_at_other_points() -> None:
    features, queries = torch.randn(2, 9, 3, dtype=F64), torch.randn(2, 4, 3, dtype=F64)
    values = torch.randn(2, 9, 2, dtype=F64)
    torch.testing.assert_close(exact_filter(features, values, queries), dense(features, queries) @ values)
    with pytest.raises(ValueError, match=r"^queries: expected"):
        exact_filter(features, values, queries[..., :2])
    with pytest.raises(TypeError, match=r"^queries: expected floating-point .*got list"):
        exact_filter(features, values, queries.tolist())  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"^queries: expected a tensor on cpu, got one on meta"):
        exact_filter(features, values, queries.to("meta"))


@pytest.mark.slow
@pytest.mark.parametrize("block", [1, 30, 10**6])
def test_gradients(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "BLOCK", block)
    features = torch.randn(2, 6, 3, dtype=F64, requires_grad=True)
    values = torch.randn(2, 6, 2, dtype=F64, requires_grad=True)
    queries = torch.randn(2, 3, 3, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(exact_filter, (features, values, queries), nondet_tol=0.0)
    assert torch.autograd.gradcheck(exact_filter, (features, values), nondet_tol=0.0)
    assert torch.autograd.gradgradcheck(exact_filter, (features, values))


def test_float32_keeps_its_digits_far_from_the_origin() -> None:
    """|q|² + |f|² - 2qf would lose four digits here."""
    features = torch.rand(1, 50, 3) + 85
    values = torch.rand(1, 50, 1)
    truth = dense(features.double()) @ values.double()
    torch.testing.assert_close(exact_filter(features, values).double(), truth, rtol=2e-6, atol=0)


def test_memory_does_not_grow_with_the_square() -> None:
    points = 20_000  # the kernel itself would take 3.2 GB in float64
    features = torch.randn(1, points, 1, dtype=F64)
    queries = features[:, :300]
    sizes = [block.shape for _, block in reference.kernel_blocks(features, queries)]
    assert sum(s[1] for s in sizes) == 300 and max(s.numel() for s in sizes) <= reference.BLOCK


def test_vmap_and_functional_gradients() -> None:
    features, values = torch.randn(3, 2, 5, 2, dtype=F64), torch.randn(3, 2, 5, 1, dtype=F64)
    mapped = torch.func.vmap(exact_filter)(features, values)
    torch.testing.assert_close(mapped, torch.stack([exact_filter(f, v) for f, v in zip(features, values)]))  # noqa: B905

    def loss(f: torch.Tensor) -> torch.Tensor:
        return exact_filter(f, values[0]).square().sum()

    leaf = features[0].clone().requires_grad_()
    torch.testing.assert_close(torch.func.grad(loss)(features[0]), torch.autograd.grad(loss(leaf), leaf)[0])


def test_autocast_does_not_change_the_exact_sum() -> None:
    features, values = torch.randn(1, 30, 2), torch.rand(1, 30, 2)
    with torch.autocast("cpu", torch.bfloat16):
        out = Exact(features).filter(values)
    assert torch.equal(out, exact_filter(features, values)) and out.dtype == torch.float32
