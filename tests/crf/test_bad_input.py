# SPDX-License-Identifier: MIT
"""Every invalid input is rejected with the argument's name, the expected and actual value, and a remedy."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from crfrnn import CRFRNN, GaussianKernel, Lattice, mean_field
from dense_crf import DenseKernel

B, L, H, W = 2, 3, 4, 5
UNARY = torch.zeros(B, L, H, W)
IMAGE = torch.full((B, 3, H, W), 100.0)
MU = -torch.eye(L)
KERNEL = DenseKernel(torch.eye(H * W).expand(B, -1, -1))


def poisoned(tensor, value):
    tensor = tensor.clone()
    tensor[1, 0, 2, 2] = value
    return tensor


def field(unary=UNARY, kernels=(KERNEL,), weights=(1.0,), mu=MU, iterations=1, **options):
    return mean_field(unary, kernels, weights, mu, iterations, **options)


FIELD = {
    "array": ({"unary": UNARY.numpy()}, TypeError, "unary: expected .*tensor.*ndarray.*as_tensor"),
    "integer unary": ({"unary": UNARY.long()}, TypeError, r"unary: .*int64 \(2, 3, 4, 5\).*unary.float\(\)"),
    "rank": ({"unary": UNARY[0, 0]}, ValueError, r"unary: .*\[B, L, \*spatial\].*\(4, 5\).*unsqueeze"),
    "no label": ({"unary": UNARY[:, :0]}, ValueError, r"unary: expected at least one label.*\(2, 0, 4, 5\)"),
    "no pixel": (
        {"unary": UNARY[..., :0]},
        ValueError,
        r"unary: expected at least one pixel.*\(2, 3, 4, 0\)",
    ),
    "NaN": (
        {"unary": poisoned(UNARY, math.nan)},
        ValueError,
        "unary: expected finite values, got 1 infinite or NaN.*network",
    ),
    "inf": ({"unary": poisoned(UNARY, math.inf)}, ValueError, "unary: .*1 infinite.*clamp="),
    "-inf": ({"unary": poisoned(UNARY, -math.inf)}, ValueError, "unary: .*clamp="),
    "one kernel": ({"kernels": KERNEL}, TypeError, r"kernels: expected a sequence.*\[kernel\]"),
    "one weight": ({"weights": 1.0}, TypeError, r"weights: expected a sequence.*\[weight\]"),
    "weights missing": ({"weights": ()}, ValueError, "weights: expected one per kernel, 1 in all, got 0"),
    "weight shape": (
        {"weights": (torch.ones(4),)},
        ValueError,
        r"weights\[0\]: .*3 labels, got float32 \(4,\)",
    ),
    "weight type": ({"weights": ("strong",)}, TypeError, r"weights\[0\]: .*'strong'.*as_tensor"),
    "weight NaN": ({"weights": (math.nan,)}, ValueError, r"weights\[0\]: expected finite"),
    "weight 1e300": ({"weights": (1e300,)}, ValueError, r"weights\[0\]: .*float32 holds, got 1e\+300"),
    "weight 10**400": ({"weights": (10**400,)}, ValueError, r"weights\[0\]: .*float32 holds"),
    "no kernel": ({"kernels": (None,)}, TypeError, r"kernels\[0\]: expected an operator.*NoneType"),
    "mu shape": ({"mu": torch.eye(2)}, ValueError, r"compatibility: expected shape \(3, 3\).*\(2, 2\)"),
    "mu number": ({"mu": -1.0}, TypeError, "compatibility: expected a tensor"),
    "mu bool": ({"mu": torch.eye(3) > 0}, TypeError, "compatibility: expected real numbers, got bool"),
    "mu inf": ({"mu": MU * math.inf}, ValueError, "compatibility: expected finite"),
    "grid": ({"unary": UNARY[..., :4]}, ValueError, r"kernels\[0\]: .*N = 16.*N = 20.*same grid"),
    "batch": ({"unary": UNARY[:1]}, ValueError, r"kernels\[0\]: .*B = 1.*B = 2"),
    "negative T": ({"iterations": -1}, ValueError, "iterations: expected at least 0, got -1"),
    "half T": ({"iterations": 2.5}, TypeError, r"iterations: expected an integer, got float 2\.5"),
    "bool T": ({"iterations": True}, TypeError, "iterations: expected an integer, got bool"),
    "mask type": ({"mask": torch.ones(B, H, W)}, TypeError, "mask: expected bool.*mask > 0"),
    "mask array": ({"mask": [[True]]}, TypeError, "mask: expected a bool tensor.*list"),
    "mask shape": ({"mask": torch.ones(B, 1, H, W) > 0}, ValueError, r"mask: .*\(2, 4, 5\).*\(2, 1, 4, 5\)"),
    "clamp type": ({"clamp": torch.zeros(B, H, W)}, TypeError, r"clamp: expected integer labels.*\.long\(\)"),
    "clamp shape": ({"clamp": torch.zeros(H, W).long()}, ValueError, r"clamp: expected \[B, \*spatial\]"),
    "clamp high": (
        {"clamp": torch.full((B, H, W), 3)},
        ValueError,
        r"clamp: .*0\.\.2 or -1, got 3.*-1 where",
    ),
    "clamp low": ({"clamp": torch.full((B, H, W), -2)}, ValueError, r"clamp: .*0\.\.2 or -1, got -2"),
    "activation": (
        {"activation": "tanh"},
        ValueError,
        "activation: expected one of 'softmax', 'relu', 'sigmoid', got 'tanh'",
    ),
    "gradient": ({"gradient": "none"}, ValueError, "gradient: expected one of"),
    "damping 0": ({"damping": 0.0}, ValueError, r"damping: expected a number in \(0, 1\], got 0\.0"),
    "damping 2": ({"damping": 2}, ValueError, "damping: "),
    "damping NaN": ({"damping": math.nan}, ValueError, "damping: "),
    "damping type": ({"damping": "half"}, TypeError, "damping: expected a number"),
    "tolerance": ({"tolerance": -1e-3}, ValueError, "tolerance: expected a positive number"),
    "tolerance type": ({"tolerance": "small"}, TypeError, "tolerance: expected a positive number"),
    "initial shape": (
        {"initial": UNARY[..., :2]},
        ValueError,
        r"initial: expected the shape of unary.*resize",
    ),
    "initial type": ({"initial": UNARY.long()}, TypeError, "initial: expected floating-point"),
    "initial NaN": ({"initial": UNARY * math.nan}, ValueError, "initial: expected finite.*initial=None"),
    "device": (
        {"mask": torch.ones(B, H, W, device="meta") > 0},
        ValueError,
        r"mask: .*cpu.*meta.*\.to\('cpu'\)",
    ),
}


@pytest.mark.parametrize("case", FIELD)
def test_mean_field(case):
    arguments, error, message = FIELD[case]
    with pytest.raises(error, match=message):
        field(**arguments)


LAYER = {
    "no label": ({"num_labels": 0}, ValueError, "num_labels: expected at least 1, got 0"),
    "label type": ({"num_labels": 3.0}, TypeError, "num_labels: expected an integer"),
    "zero bandwidth": (
        {"theta_alpha": 0.0},
        ValueError,
        r"theta_alpha: expected positive finite pixels, got 0\.0",
    ),
    "negative bandwidth": (
        {"theta_beta": -3},
        ValueError,
        "theta_beta: expected positive finite colour steps",
    ),
    "one zero bandwidth": ({"theta_gamma": [1.0, 0.0]}, ValueError, r"theta_gamma: .*\[1\.0, 0\.0\]"),
    "infinite bandwidth": ({"theta_gamma": math.inf}, ValueError, "theta_gamma: expected positive finite"),
    "NaN bandwidth": ({"theta_gamma": math.nan}, ValueError, "theta_gamma: expected positive finite"),
    "no bandwidth": ({"theta_gamma": []}, ValueError, "theta_gamma: expected a positive number"),
    "worded bandwidth": ({"theta_gamma": "wide"}, TypeError, "theta_gamma: expected a positive number"),
    "weight": ({"spatial_weight": [1.0, 2.0]}, TypeError, r"spatial_weight: .*crf\.spatial_weights"),
    "weight NaN": (
        {"bilateral_weight": math.nan},
        ValueError,
        "bilateral_weight: expected one finite number",
    ),
    "weight type": ({"bilateral_weight": "3"}, TypeError, "bilateral_weight: expected one finite number"),
    "preset": ({"preset": "caffe"}, ValueError, "preset: expected None or one of .*'crfasrnn'.*'caffe'"),
    "iterations": ({"iterations": -1}, ValueError, "iterations: expected at least 0"),
    "eval iterations": ({"eval_iterations": -1}, ValueError, "eval_iterations: expected at least 0"),
    "label weights": (
        {"label_weights": "full"},
        ValueError,
        "label_weights: expected one of 'vector', 'matrix'",
    ),
    "spatial": ({"spatial_method": "fft"}, ValueError, "spatial_method: expected one of"),
    "bilateral": ({"bilateral_method": "separable"}, ValueError, "bilateral_method: expected one of"),
    "quality": ({"quality": "best"}, ValueError, "quality: expected one of"),
    "normalization": ({"normalization": "mean"}, ValueError, "normalization: expected one of"),
    "temperature": ({"temperature": 0.0}, ValueError, "temperature: expected positive finite"),
    "temperatures": ({"temperature": [1.0, 2.0]}, ValueError, r"temperature: expected one number, got \[1"),
    "wide bandwidth": ({"theta_gamma": 10**400}, TypeError, "theta_gamma: expected a positive number"),
    "weight 10**400": ({"spatial_weight": 10**400}, TypeError, "spatial_weight: expected one finite number"),
    "damping": ({"damping": -1.0}, ValueError, "damping: "),
}


@pytest.mark.parametrize("case", LAYER)
def test_layer_construction(case):
    arguments, error, message = LAYER[case]
    with pytest.raises(error, match=message):
        CRFRNN(**{"num_labels": L, **arguments})


CALL = {
    "labels": ((UNARY[:, :2], IMAGE), {}, ValueError, r"unary: expected 3 labels.*CRFRNN\(2, \.\.\.\)"),
    "image array": ((UNARY, IMAGE.numpy()), {}, TypeError, "image: expected a float or uint8 tensor"),
    "image type": ((UNARY, IMAGE.long()), {}, TypeError, r"image: .*int64.*image\.float\(\)"),
    "image rank": ((UNARY, IMAGE[:, 0]), {}, ValueError, r"image: .*image\.unsqueeze\(1\)"),
    "image size": ((UNARY, IMAGE[..., :4]), {}, ValueError, r"image: .*size \(4, 5\).*interpolate"),
    "image batch": ((UNARY, IMAGE[:1]), {}, ValueError, r"image: .*batch 2.*image\.expand\(2,"),
    "no channel": ((UNARY, IMAGE[:, :0]), {}, ValueError, "image: expected at least one channel"),
    "image NaN": ((UNARY, poisoned(IMAGE, math.nan)), {}, ValueError, "image: expected finite.*mask="),
    "image inf": ((UNARY, poisoned(IMAGE, math.inf)), {}, ValueError, "image: expected finite.*mask="),
    "no pixel": ((UNARY[..., :0], IMAGE[..., :0]), {}, ValueError, "unary: expected at least one pixel"),
    "mask": ((UNARY, IMAGE), {"mask": torch.ones(B, H, W)}, TypeError, "mask: expected bool"),
    "clamp": ((UNARY, IMAGE), {"clamp": torch.full((B, H, W), 9)}, ValueError, "clamp: expected labels"),
    "iterations": ((UNARY, IMAGE), {"iterations": -2}, ValueError, "iterations: expected at least 0"),
}


@pytest.mark.parametrize("case", CALL)
def test_layer_call(case):
    inputs, options, error, message = CALL[case]
    with pytest.raises(error, match=message):
        CRFRNN(L)(*inputs, **options)


def test_bandwidths_per_axis_must_fit_the_picture():
    with pytest.raises(ValueError, match=r"theta_alpha: expected one number or 2 of them for the axes"):
        CRFRNN(L, theta_alpha=[1.0, 2.0, 3.0])(UNARY, IMAGE)
    with pytest.raises(ValueError, match=r"theta_beta: expected one number or 3 of them for the channels"):
        CRFRNN(L, theta_beta=[1.0, 2.0])(UNARY, IMAGE)


def test_large_but_finite_unaries_are_accepted():
    """Their sum overflows float32, but each is finite."""
    huge = torch.full((B, L, H, W), 3e38)
    assert torch.isfinite(field(huge)).all()


WAYS: list[dict[str, Any]] = [
    {},
    {"spatial_method": "lattice"},
    {"spatial_method": "exact", "bilateral_method": "exact"},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("normalization", ["none", "before", "after", "symmetric"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masks_without_a_valid_pixel_and_empty_batches(
    way: dict[str, Any], normalization: str, dtype: torch.dtype
) -> None:
    """The output under a mask is the unary, and its gradient 1; nothing reaches guide or parameters."""
    crf = CRFRNN(3, normalization=normalization, **way)
    for batch in (0, 2):
        unary = torch.randn(batch, 3, 5, 6, dtype=dtype, requires_grad=True)
        image = (255 * torch.rand(batch, 3, 5, 6)).requires_grad_()
        logits = crf(unary, image, mask=torch.zeros(batch, 5, 6, dtype=torch.bool))
        assert torch.equal(logits, unary)
        gradients = torch.autograd.grad(logits.sum(), [unary, image, *crf.parameters()], allow_unused=True)
        assert torch.equal(gradients[0], torch.ones_like(unary))
        assert all(g is None or not g.any() for g in gradients[1:])


def test_kernels_in_float64_beside_a_unary_in_float32() -> None:
    unary, image = torch.randn(1, 3, 5, 6), 255 * torch.rand(1, 3, 5, 6)
    double = [
        GaussianKernel.spatial((5, 6), 2.3, dtype=torch.float64),
        GaussianKernel.bilateral(image.double(), 31.7, 13.1),
    ]
    truth = mean_field(unary.double(), double, [1.0, 2.0], -torch.eye(3, dtype=torch.float64))
    single = GaussianKernel.bilateral(image, 31.7, 13.1)
    for kernels in (double, [double[0], single]):
        logits = mean_field(unary, kernels, [1.0, 2.0], -torch.eye(3))
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits.double(), truth, rtol=1e-4, atol=1e-4)


def test_sparse_and_nested_tensors_are_refused_by_name() -> None:
    unary, image, crf = torch.randn(1, 3, 5, 6), 255 * torch.rand(1, 3, 5, 6), CRFRNN(3)
    kernel = GaussianKernel.spatial((5, 6), 2.3)
    mask = torch.ones(1, 5, 6, dtype=torch.bool)
    for name, call in {
        "unary": lambda: crf(unary.to_sparse(), image),
        "image": lambda: crf(unary, image.to_sparse()),
        "mask": lambda: crf(unary, image, mask=mask.to_sparse()),
        "compatibility": lambda: mean_field(unary, [kernel], [1.0], -torch.eye(3).to_sparse()),
        r"weights\[0\]": lambda: mean_field(unary, [kernel], [torch.eye(3).to_sparse()], -torch.eye(3)),
        "features": lambda: Lattice.build(torch.rand(1, 4, 2).to_sparse()),
        "values": lambda: kernel @ torch.rand(1, 30, 2).to_sparse(),
    }.items():
        with pytest.raises(TypeError, match=rf"^{name}: expected a dense tensor.*\.to_dense\(\)"):
            call()
    with pytest.raises(TypeError, match=r"unary: expected a dense.*nested one.*to_padded_tensor"):
        crf(torch.nested.nested_tensor([unary[0], unary[0]]), image)


def test_shapes_alone() -> None:
    """Tensors on meta have no values: the layer returns the output's shape, a lattice reports an error."""
    unary, image = torch.empty(1, 3, 5, 6, device="meta"), torch.empty(1, 3, 5, 6, device="meta")
    out = CRFRNN(3).to("meta")(unary, image)
    assert out.is_meta and out.shape == unary.shape
    with pytest.raises(ValueError, match=r"spatial_weights: .* on meta; .*to_empty\(device='cpu'\)"):
        CRFRNN(3).to("meta")(torch.randn(1, 3, 5, 6), torch.rand(1, 3, 5, 6))
    with pytest.raises(ValueError, match=r"spatial_weights: .*on cpu; move the layer with \.to\('meta'\)"):
        CRFRNN(3)(unary, image)
    with pytest.raises(ValueError, match="features: expected a tensor with values"):
        Lattice.build(torch.empty(1, 4, 2, device="meta"))
