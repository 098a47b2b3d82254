# SPDX-License-Identifier: MIT
"""What every filter must satisfy, one row per backend × dtype × normalisation."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator

import pytest
import torch

from conformance import HAS_GPU, LATTICES, NORMALIZATIONS, ROWS, Row, matrix, picture
from crfrnn.lattice import Lattice
from crfrnn.lattice.quality import Quality

rows = pytest.mark.parametrize("row", ROWS, ids=str)
modes = pytest.mark.parametrize("mode", NORMALIZATIONS)
POINTS = 6 * 7


@pytest.fixture(autouse=True)
def _on_the_device_of_the_row(request: pytest.FixtureRequest) -> Iterator[None]:
    """Random tensors of a test are created on the device of its row."""
    row = request.node.callspec.params.get("row") if hasattr(request.node, "callspec") else None
    if row is None or row.device == "cpu":
        yield
        return
    if not HAS_GPU:
        pytest.skip("no GPU")
    with torch.device(row.device):
        yield


def close(row: Row, a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=row.tolerance, atol=row.tolerance)


@rows
@modes
def test_the_adjoint_is_the_transpose(row: Row, mode: str) -> None:
    mask = torch.rand(2, 6, 7) > 0.2
    kernel = row.kernel(picture(), mode, mask=mask, exclude_self=mode == "none")
    dense = matrix(kernel)
    close(row, matrix(kernel.T), dense.transpose(1, 2))
    close(row, matrix(kernel.T.T), dense)
    close(row, matrix(kernel.symmetrized()), (dense + dense.transpose(1, 2)) / 2)
    assert not kernel.is_symmetric or dense.allclose(dense.transpose(1, 2), atol=row.tolerance)


@rows
def test_constants_are_preserved(row: Row) -> None:
    ones = torch.ones(2, POINTS, 2, dtype=row.dtype)
    after = row.kernel(picture())
    close(row, after @ (3 * ones), 3 * ones)
    if not row.is_lattice:  # K 1 = Kᵀ 1: "after" preserves constants, "before" preserves the total
        values = row.values(2, POINTS)
        close(row, (row.kernel(picture(), "before") @ values).sum(1), values.sum(1))


@rows
@modes
def test_a_batch_equals_its_pictures(row: Row, mode: str) -> None:
    image, values = picture(3), row.values(3, POINTS)
    together = row.kernel(image, mode) @ values
    for b in range(3):
        close(row, together[b : b + 1], row.kernel(image[b : b + 1], mode) @ values[b : b + 1])


@rows
@modes
def test_a_kernel_of_one_picture_serves_any_batch(row: Row, mode: str) -> None:
    kernel, values = row.kernel(picture(1), mode, exclude_self=True), row.values(3, POINTS)
    together = kernel @ values
    for b in range(3):
        close(row, together[b : b + 1], kernel @ values[b : b + 1])


@pytest.mark.parametrize("row", [r for r in ROWS if r.method != "separable"], ids=str)
@modes
def test_the_order_of_points_does_not_matter(row: Row, mode: str) -> None:
    features, values = torch.randn(2, 40, 4, dtype=row.dtype), row.values(2, 40)
    order = torch.randperm(40)
    out = row.points(features, mode) @ values
    close(row, row.points(features[:, order], mode) @ values[:, order], out[:, order])


@rows
@modes
@pytest.mark.parametrize("exclude_self", [False, True])
def test_masked_padding_equals_no_padding(row: Row, mode: str, exclude_self: bool) -> None:
    image, values = picture(), row.values(2, POINTS)
    plain = row.kernel(image, mode, exclude_self=exclude_self) @ values
    padded = torch.full((2, 3, 9, 11), torch.nan, dtype=torch.float64)  # values there have no effect
    padded[..., :6, :7] = image
    filled = torch.full((2, 9, 11, 3), torch.nan, dtype=row.dtype)
    filled[:, :6, :7] = values.view(2, 6, 7, 3)
    mask = torch.zeros(2, 9, 11, dtype=torch.bool)
    mask[:, :6, :7] = True
    kernel = row.kernel(padded, mode, mask=mask, exclude_self=exclude_self)
    out = (kernel @ filled.view(2, -1, 3)).view(2, 9, 11, 3)
    close(row, out[:, :6, :7].reshape(2, POINTS, 3), plain)
    assert (out[~mask] == 0).all()


@rows
def test_layout_does_not_matter(row: Row) -> None:
    image, values = picture(), row.values(2, POINTS)
    kernel = row.kernel(image)
    expected = kernel @ values
    strided = torch.stack([values, values], -1)[..., 0]
    turned = values.transpose(1, 2).contiguous().transpose(1, 2)
    assert not strided.is_contiguous() and not turned.is_contiguous()
    assert torch.equal(kernel @ strided, expected) and torch.equal(kernel @ turned, expected)
    last = image.to(memory_format=torch.channels_last)
    assert torch.equal(row.kernel(last) @ values, expected)
    assert torch.equal(row.kernel(image.flip(-1)).features, row.kernel(image.flip(-1).contiguous()).features)


@rows
@modes
def test_empty_and_tiny_input(row: Row, mode: str) -> None:
    for shape in ((0, 3, 4, 5), (2, 3, 0, 5)):
        count = shape[2] * shape[3]
        kernel = row.kernel(torch.zeros(shape), mode, exclude_self=True)
        assert (kernel @ row.values(shape[0], count)).shape == (shape[0], count, 3)
    nothing = row.kernel(picture(), mode, mask=torch.zeros(2, 6, 7, dtype=torch.bool))
    assert ((nothing @ row.values(2, POINTS)) == 0).all()
    assert (row.kernel(picture(), mode) @ row.values(2, POINTS, 0)).shape == (2, POINTS, 0)
    one = row.kernel(torch.full((1, 1, 1, 1), 7.0), mode)
    if mode != "none":
        close(row, one @ torch.ones(1, 1, 1, dtype=row.dtype), torch.ones(1, 1, 1, dtype=row.dtype))


@rows
def test_a_point_without_neighbours_receives_nothing(row: Row) -> None:
    alone = torch.zeros(1, 6, 7, dtype=torch.bool)
    alone[0, 2, 3] = True
    for mode in NORMALIZATIONS:
        kernel = row.kernel(picture(1), mode, mask=alone, exclude_self=True)
        assert (kernel @ row.values(1, POINTS)).abs().max() < 1e-5


@rows
@modes
def test_exclude_self_removes_the_diagonal(row: Row, mode: str) -> None:
    image = picture()
    dense = matrix(row.kernel(image, mode, exclude_self=True))
    raw = matrix(row.kernel(image, "none"))
    raw = raw - torch.diag_embed(raw.diagonal(dim1=1, dim2=2))
    mass = raw.sum(-1, keepdim=True)
    pre, post = {
        "none": (1.0, 1.0),
        "before": (1 / mass.mT, 1.0),
        "after": (1.0, 1 / mass),
        "symmetric": (mass.mT**-0.5, mass**-0.5),
    }[mode]
    torch.testing.assert_close(dense, post * raw * pre, rtol=10 * row.tolerance, atol=row.tolerance)


@rows
def test_runs_are_bit_identical(row: Row) -> None:
    image, values = picture().requires_grad_(), row.values(2, POINTS).requires_grad_()

    def run() -> list[torch.Tensor]:
        out = row.kernel(image) @ values
        grads = torch.autograd.grad(out.square().sum(), [image, values], allow_unused=True)
        return [out, *(g for g in grads if g is not None)]

    for a, b in zip(run(), run(), strict=True):
        assert torch.equal(a, b)


@rows
def test_half_precision_values_are_computed_in_full(row: Row) -> None:
    kernel, values = row.kernel(picture()), row.values(2, POINTS).half()
    with torch.autocast(row.device, torch.bfloat16):
        out = kernel @ values
    close(row, out, kernel @ values.to(row.dtype))
    assert out.dtype == row.dtype
    assert (kernel @ values.double()).dtype == torch.float64


@rows
def test_kernels_copy_and_pickle(row: Row) -> None:
    kernel, values = row.kernel(picture()), row.values(2, POINTS)
    file = io.BytesIO()
    torch.save(kernel, file)
    file.seek(0)
    for twin in (copy.deepcopy(kernel), torch.load(file, weights_only=False)):
        assert torch.equal(twin @ values, kernel @ values)


@pytest.mark.slow
@pytest.mark.parametrize("backend", [b for b in LATTICES if b != "reference"])
@pytest.mark.parametrize("dimension", [*range(1, 10), 13, 20, 32])
@pytest.mark.parametrize("setting", ["classic", "high", Quality(1.1, 1, 3)], ids=str)
def test_compiled_lattices_equal_the_reference(backend: str, dimension: int, setting: str | Quality) -> None:
    if dimension > 6 and isinstance(setting, Quality):
        return
    if dimension > 13 and setting == "high" and backend != "cpu":
        return
    if dimension > 8 and backend == "triton":
        return
    features = (1.5 * torch.randn(2, 30, dimension, dtype=torch.float64)).requires_grad_()
    values = torch.randn(2, 30, 5, dtype=torch.float64, requires_grad=True)
    mask, grad = torch.rand(2, 30) > 0.2, torch.randn(2, 30, 5, dtype=torch.float64)
    results = []
    for name in (backend, "reference"):
        lattice = Lattice.build(features, setting, mask, name)
        outs = [
            lattice.filter(values),
            lattice.filter(values, reverse=True),
            lattice.diagonal(),
        ]
        loss = (outs[0] * grad).sum() + (outs[1] * grad.flip(0)).sum() + (outs[2] * grad[..., 0]).sum()
        results.append([lattice.num_vertices, *outs, *torch.autograd.grad(loss, [features, values])])
    assert results[0][0] == results[1][0]
    for a, b in zip(results[0][1:], results[1][1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
