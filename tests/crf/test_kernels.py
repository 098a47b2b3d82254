# SPDX-License-Identifier: MIT
"""GaussianKernel: units, shapes, normalisation and gradients against dense formulas."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from conformance import LATTICES, NORMALIZATIONS, matrix, picture
from crfrnn.crf import CRFRNN, InputWarning, principal_directions
from crfrnn.crf.features import image_features
from crfrnn.crf.kernels import GaussianKernel
from crfrnn.lattice import Exact, Lattice, Separable

F64 = torch.float64


def test_bilateral_is_the_paper_s_kernel() -> None:
    """exp(-|p_i - p_j|² / 2θ_α² - |I_i - I_j|² / 2θ_β²), colours on the 0..255 scale."""
    image = picture(1, 3, 3, 4)
    kernel = matrix(GaussianKernel.bilateral(image, 5.0, 13.0, method="exact", normalization="none"))[0]
    for i in range(12):
        for j in range(12):
            place = (i // 4 - j // 4) ** 2 + (i % 4 - j % 4) ** 2
            a, b = image[0, :, i // 4, i % 4], image[0, :, j // 4, j % 4]
            expected = math.exp(-place / 50 - float((a - b).square().sum()) / 338)
            assert kernel[i, j] == pytest.approx(expected)


def test_features_are_x_y_z_then_channels() -> None:
    image = torch.arange(2 * 2 * 3 * 4).view(1, 2, 2, 3, 4).float()
    alpha, beta = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 10.0])
    features = image_features(image, alpha, beta)[0]
    assert features.shape == (24, 5)
    pixel = (1 * 3 + 2) * 4 + 3  # z, y, x = 1, 2, 3
    colours = image[0, :, 1, 2, 3] / beta
    assert features[pixel].tolist() == pytest.approx([3.0, 1.0, 0.25, *colours.tolist()])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, F64])
def test_guides_of_any_dtype(dtype: torch.dtype) -> None:
    image = picture(1).round().to(dtype)
    features = image_features(image, 80.0, 13.0)
    assert features.dtype == (F64 if dtype == F64 else torch.float32)
    expected = image_features(image.to(F64), 80.0, 13.0)
    torch.testing.assert_close(features.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", LATTICES)
@pytest.mark.parametrize("shape", [(9,), (4, 5), (2, 3, 4)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_grids_and_guides_of_any_kind(backend: str, shape: tuple[int, ...], channels: int) -> None:
    image, count = 255 * torch.rand(2, channels, *shape), math.prod(shape)
    bilateral = GaussianKernel.bilateral(image, 4.0, 60.0, backend=backend)
    spatial = GaussianKernel.spatial(shape, 2.0, method="lattice", backend=backend)
    ones = torch.ones(2, count, 2)
    for kernel in (bilateral, spatial, GaussianKernel.spatial(shape, 2.0)):
        torch.testing.assert_close(kernel @ ones, ones)


@pytest.mark.parametrize("mode", NORMALIZATIONS)
def test_normalisation_with_a_mask(mode: str) -> None:
    image, mask = picture(), torch.rand(2, 6, 7) > 0.3
    flat = mask.flatten(1).double()
    raw = matrix(GaussianKernel.bilateral(image, 3.0, 40.0, method="exact", normalization="none"))
    raw = raw * flat[:, None] * flat[:, :, None]
    mass = raw.sum(-1) + (1 - flat)
    left = {"after": 1 / mass, "symmetric": mass**-0.5}.get(mode, torch.ones_like(mass))
    right = {"before": 1 / mass, "symmetric": mass**-0.5}.get(mode, torch.ones_like(mass))
    kernel = GaussianKernel.bilateral(image, 3.0, 40.0, method="exact", normalization=mode, mask=mask)
    torch.testing.assert_close(matrix(kernel), left[:, :, None] * raw * right[:, None])
    flat_mask = GaussianKernel.bilateral(image, 3.0, 40.0, "exact", mode, mask=mask.flatten(1))
    assert torch.equal(matrix(flat_mask), matrix(kernel))


def test_spatial_methods_agree() -> None:
    theta = torch.tensor([2.0, 3.0], dtype=F64)
    kernels = [GaussianKernel.spatial((5, 6), theta, method=m) for m in ("separable", "exact", "lattice")]
    exact, *others = (matrix(k) for k in kernels)
    torch.testing.assert_close(others[0], exact)
    assert (others[1] - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("method", ["exact", "separable"])
@pytest.mark.parametrize("mode", NORMALIZATIONS)
@pytest.mark.parametrize("exclude_self", [False, True])
def test_gradients(method: str, mode: str, exclude_self: bool) -> None:
    """Every input at once: guide, all bandwidths and values, through the normaliser."""
    mask = torch.ones(1, 3, 3, dtype=torch.bool)
    mask[0, 2, 2] = False
    values = torch.randn(1, 9, 2, dtype=F64, requires_grad=True)
    alpha = torch.tensor([1.5, 2.5], dtype=F64, requires_grad=True)
    options = {"normalization": mode, "mask": mask, "exclude_self": exclude_self}
    if method == "separable":
        inputs = (alpha, values)

        def run(*given: torch.Tensor) -> torch.Tensor:
            return GaussianKernel.spatial((3, 3), given[0], **options) @ given[1]
    else:
        image = picture(1, 2, 3, 3).requires_grad_()
        beta = torch.tensor([31.0, 57.0], dtype=F64, requires_grad=True)
        inputs = (image, alpha, beta, values)

        def run(*given: torch.Tensor) -> torch.Tensor:
            return GaussianKernel.bilateral(*given[:3], "exact", **options) @ given[3]

    assert torch.autograd.gradcheck(run, inputs, nondet_tol=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("backend", LATTICES)
@pytest.mark.parametrize("mode", NORMALIZATIONS)
def test_gradients_of_the_lattice_at_generic_points(backend: str, mode: str) -> None:
    image = picture(1, 2, 3, 3).requires_grad_()
    alpha = torch.tensor([1.5123, 2.5456], dtype=F64, requires_grad=True)
    beta = torch.tensor(33.789, dtype=F64, requires_grad=True)
    values = torch.randn(1, 9, 2, dtype=F64, requires_grad=True)
    mask = torch.ones(1, 3, 3, dtype=torch.bool)
    mask[0, 2, 2] = False

    def run(i: torch.Tensor, a: torch.Tensor, b: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        kernel = GaussianKernel.bilateral(
            i, a, b, normalization=mode, mask=mask, exclude_self=mode == "symmetric", backend=backend
        )
        return kernel @ v

    # The interpreter needs a second for each entry of the Jacobian: there it is one random direction.
    assert torch.autograd.gradcheck(
        run, (image, alpha, beta, values), nondet_tol=0.0, eps=1e-7, atol=1e-5, fast_mode=backend == "triton"
    )


@pytest.mark.slow
@pytest.mark.parametrize("backend", LATTICES)
@pytest.mark.parametrize("quality", ["classic", "high"])
def test_bandwidth_gradients_point_where_the_exact_ones_do(backend: str, quality: str) -> None:
    """For a loss that compares the filtered maps with reference maps, per axis and channel and in total.

    (Against an unrelated target the exact gradient itself nearly vanishes, and the direction says nothing.)
    """
    size = 40
    y, x = torch.meshgrid(*2 * [torch.arange(size, dtype=F64)], indexing="ij")
    cosines = []
    for _ in range(4):
        phase, speed = 6.28 * torch.rand(6, dtype=F64), (0.5 + torch.rand(6, dtype=F64)) / 6
        turn = zip(phase, speed, strict=True)
        waves = torch.stack([torch.sin(s * (x * p.cos() + y * p.sin()) + p) for p, s in turn])
        image, values = (
            (128 + 90 * waves[:3]).unsqueeze(0),
            (2 * waves[3:]).flatten(1).T.unsqueeze(0).softmax(-1),
        )

        def gradient(image: Tensor, values: Tensor, **how: str) -> Tensor:
            theta = torch.tensor([20.123, 20.321, 60.7, 63.3, 67.1], dtype=F64, requires_grad=True)
            kernel = GaussianKernel.bilateral(image, theta[:2], theta[2:], **how)
            loss = -((kernel @ values).log() * values).mean()
            return torch.autograd.grad(loss, theta)[0] * theta.detach()

        ours = gradient(image, values, quality=quality, backend=backend)
        exact = gradient(image, values, method="exact")
        pair = [torch.stack([g[:2].sum(), g[2:].sum()]) for g in (ours, exact)]
        assert torch.cosine_similarity(*pair, dim=0) > 0.9
        cosines.append(torch.cosine_similarity(ours, exact, dim=0))
    assert min(cosines) > 0.8 and sum(cosines) / 4 > 0.9


def test_error_report() -> None:
    features = torch.randn(2, 300, 3)
    exact = GaussianKernel(features, method="exact")
    assert isinstance(exact.operator, Exact) and exact.error() < 1e-6
    lattice = GaussianKernel(features, backend="reference")
    values = torch.rand(2, 300, 4)
    truth = exact @ values
    measured = float(((lattice @ values) - truth).norm() / truth.norm())
    assert lattice.error(values, rows=300) == pytest.approx(measured, rel=1e-3)
    assert lattice.error() == lattice.error() != lattice.error(seed=1)
    for mode in NORMALIZATIONS:  # one figure for all of them
        same = GaussianKernel(features, normalization=mode, backend="reference")
        assert same.error(values) == pytest.approx(lattice.error(values))
    mask = torch.zeros(2, 300, dtype=torch.bool)
    mask[:, :40] = True
    masked = GaussianKernel(features, mask=mask, exclude_self=True, backend="reference")
    assert 0 < masked.error(rows=100) < 0.5
    assert GaussianKernel(features, mask=torch.zeros_like(mask), backend="reference").error() == 0.0
    assert GaussianKernel.spatial((5, 6), 2.0).error() < 1e-6
    assert GaussianKernel.spatial((5, 6), 2.0).error(torch.rand(3, 30, 2)) < 1e-6
    with pytest.raises(ValueError, match=r"^rows"):
        exact.error(rows=0)


def test_where_symmetry_is_claimed() -> None:
    features = torch.randn(1, 10, 2)
    for mode in NORMALIZATIONS:
        kernel = GaussianKernel(features, method="exact", normalization=mode)
        assert kernel.is_symmetric == kernel.is_positive_semidefinite == (mode in ("none", "symmetric"))
        assert not GaussianKernel(features, normalization=mode, backend="reference").is_symmetric
        assert kernel.symmetrized().is_symmetric
    kept = GaussianKernel(features, "exact", "none", exclude_self=True)
    assert kept.is_symmetric and not kept.is_positive_semidefinite


@pytest.mark.parametrize("theta", [0.0, -3.0, math.nan, math.inf, (1.0, 2.0, 3.0), "wide"])
def test_bad_bandwidths(theta: object) -> None:
    image = picture(1).float()
    with pytest.raises((ValueError, TypeError), match=r"^theta_alpha: expected"):
        GaussianKernel.bilateral(image, theta, 3.0)  # type: ignore[arg-type]
    with pytest.raises((ValueError, TypeError), match=r"^theta: expected"):
        GaussianKernel.spatial((4, 5), theta)  # type: ignore[arg-type]


def test_bad_arguments() -> None:
    image = picture(1).float()
    with pytest.raises(TypeError, match=r"^image: expected a float or uint8"):
        GaussianKernel.bilateral(image.long(), 3.0, 3.0)
    with pytest.raises(ValueError, match=r"^image: expected"):
        GaussianKernel.bilateral(image[0, 0], 3.0, 3.0)
    with pytest.raises(ValueError, match=r"^method: expected one of"):
        GaussianKernel(torch.rand(1, 4, 2), method="separable")
    with pytest.raises(ValueError, match=r"^normalization: expected one of"):
        GaussianKernel(torch.rand(1, 4, 2), method="exact", normalization="sum")
    with pytest.raises(ValueError, match=r"^mask: expected a bool tensor \[B, 6, 7\]"):
        GaussianKernel.bilateral(image, 3.0, 3.0, mask=torch.ones(1, 5, 7, dtype=torch.bool))
    with pytest.raises(TypeError, match=r"^mask: expected a bool"):
        GaussianKernel.spatial((4, 5), 3.0, mask=torch.ones(1, 4, 5))
    with pytest.raises(ValueError, match=r"^shape: expected"):
        GaussianKernel.spatial((), 3.0)
    with pytest.raises(ValueError, match=r"^values: expected \[B, 20, C\]"):
        _ = GaussianKernel.spatial((4, 5), 3.0) @ torch.rand(1, 21, 2)


def many_bands(batch: int = 2, bands: int = 13, height: int = 9, width: int = 8) -> torch.Tensor:
    """Float64[B, bands, H, W]: three fields mixed into all bands, and a little noise."""
    fields = torch.rand(batch, 3, height, width, dtype=torch.float64) * torch.tensor([200.0, 90, 40]).view(
        -1, 1, 1
    )
    mixed = torch.einsum("cf,bfhw->bchw", torch.randn(bands, 3, dtype=torch.float64), fields)
    return mixed + torch.randn_like(mixed)


@pytest.mark.parametrize("masked", [False, True])
def test_guide_components_are_numpy_s_singular_vectors(masked: bool) -> None:
    """The projected channels are the scores U S of the centred pixels over their bandwidths."""
    image, beta = many_bands(), torch.linspace(3, 20, 13, dtype=torch.float64)
    mask = torch.rand(2, 9, 8) > 0.3 if masked else torch.ones(2, 9, 8, dtype=torch.bool)
    image = torch.where(mask.unsqueeze(1), image, torch.nan if masked else 0)
    kernel = GaussianKernel.bilateral(image, 9.0, beta, "exact", mask=mask, guide_components=4)
    for b in range(2):
        pixels = (image[b].flatten(1) / beta[:, None]).T[mask[b].flatten()].numpy()
        centred = pixels - pixels.mean(0)
        left, sizes, right = np.linalg.svd(centred, full_matrices=False)
        signs = np.sign(right[np.arange(4), np.abs(right[:4]).argmax(1)])
        scores = (left * sizes)[:, :4] * signs
        ours = kernel.features[b, mask[b].flatten(), 2:].numpy()
        np.testing.assert_allclose(ours - ours.mean(0), scores, atol=1e-9)


def test_guide_components_keep_the_unit_of_distances() -> None:
    """All of them are a rotation: the same kernel. Fewer never lengthen a distance."""
    image = many_bands(1, 13)
    whole, rotated, three = (
        GaussianKernel.bilateral(image, 9.0, 30.0, "exact", "none", guide_components=k) for k in (None, 13, 3)
    )
    dense = [matrix(kernel) for kernel in (whole, rotated, three)]
    torch.testing.assert_close(dense[1], dense[0], rtol=1e-9, atol=1e-12)
    assert (dense[2] >= dense[0] - 1e-12).all() and (dense[2] - dense[0]).max() < 0.05
    crf, unary = CRFRNN(3, guide_components=3).double(), torch.randn(1, 3, 9, 8, dtype=torch.float64)
    plain = CRFRNN(3).double()
    directions = principal_directions(image.flatten(2) / plain.log_theta_beta.exp(), 3)[0]
    torch.testing.assert_close(crf(unary, image), plain(unary, image, guide_components=directions))
    torch.testing.assert_close(crf(unary, image), plain(unary, image, guide_components=3))


def test_guide_components_have_the_gradient_of_fixed_directions() -> None:
    image = many_bands(1, 7, 3, 4).requires_grad_()
    values = torch.rand(1, 12, 2, dtype=torch.float64)
    directions = principal_directions(image.detach().flatten(2) / 20.0, 2)[0]

    def loss(image: torch.Tensor, theta: torch.Tensor, components: int | torch.Tensor) -> torch.Tensor:
        kernel = GaussianKernel.bilateral(image, 9.0, theta, "exact", guide_components=components)
        return (kernel @ values).square().sum()

    theta = torch.tensor(20.0, dtype=torch.float64, requires_grad=True)
    given = torch.autograd.grad(loss(image, theta, directions), [image, theta])
    found = torch.autograd.grad(loss(image, theta, 2), [image, theta])
    for a, b in zip(given, found, strict=True):
        torch.testing.assert_close(a, b)
    assert torch.autograd.gradcheck(lambda i, t: loss(i, t, directions), (image, theta))


def test_one_warning_where_the_lattice_is_sparse_and_its_remedy_works() -> None:
    image, unary, crf = many_bands(1).float(), torch.randn(1, 2, 9, 8), CRFRNN(2)
    with pytest.warns(InputWarning, match="15 numbers per point.*guide_components=3") as warned:
        crf(unary, image)
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        crf(unary, image, guide_components=3)
        CRFRNN(2, guide_components=3)(unary, image)
        GaussianKernel.bilateral(image, 9.0, 20.0, guide_components=5)
        GaussianKernel.bilateral(image, 9.0, 20.0, "exact")


@pytest.mark.parametrize("components", [0, 14, 2.0, True, torch.zeros(4, 2), torch.zeros(13)])
def test_bad_guide_components(components: object) -> None:
    with pytest.raises((ValueError, TypeError), match=r"^guide_components: expected"):
        GaussianKernel.bilateral(many_bands(1), 9.0, 20.0, "exact", guide_components=components)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["lattice", "exact"])
def test_features_are_checked_once(method: str) -> None:
    """By the kernel: checking their range synchronises with the device, and needs a pass over all of them."""

    class Looks(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += "aminmax" in str(func)
            return func(*args, **(kwargs or {}))

    with Looks() as looks:
        kernel = GaussianKernel(torch.rand(1, 9, 2), method)
        kernel @ torch.ones(1, 9, 1)
    assert looks.count == 1


def test_a_kernel_keeps_its_points_and_bandwidths() -> None:
    """If they were changed in place afterwards, the normaliser would belong to other points."""
    points, theta, values = torch.rand(1, 6, 2), torch.tensor([1.0, 2.0]), torch.rand(1, 6, 3)
    kernels = GaussianKernel(points, method="exact"), GaussianKernel.spatial((2, 3), theta)
    before = [kernel @ values for kernel in kernels]
    points.zero_()
    theta.fill_(9.0)
    assert all(torch.equal(kernel @ values, old) for kernel, old in zip(kernels, before, strict=True))


@pytest.mark.parametrize(
    ("operator", "features", "mask", "error", "said"),
    [
        ("lattice", torch.rand(2, 6, 2), None, TypeError, "operator: expected a Lattice, Exact or Separable"),
        (Lattice.build(torch.rand(2, 5, 2)), torch.rand(2, 6, 2), None, ValueError, "operator: .*N = 5"),
        (Exact(torch.rand(2, 6, 2)), torch.rand(1, 6, 2), None, ValueError, "operator: .*B = 2, N = 6"),
        (Separable((2, 3), torch.ones(2)), None, None, TypeError, "features: expected floating-point"),
        (Separable((2, 3), torch.ones(2)), torch.rand(6, 2), None, TypeError, r"features: .*\[B, N, d\]"),
        (Separable((2, 3), torch.ones(2)), torch.rand(1, 6, 2), torch.ones(1, 6), TypeError, "mask: .*bool"),
    ],
)
def test_an_operator_must_fit_its_points(
    operator: Any, features: Any, mask: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        GaussianKernel(features, operator=operator, mask=mask)
