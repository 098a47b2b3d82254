# SPDX-License-Identifier: MIT
"""The GPU lattice beyond the conformance suite: in Triton's interpreter, and compiled for a GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from conformance import HAS_GPU, LATTICES
from crfrnn.lattice import Lattice, backend, separable_filter

pytest.importorskip("triton")
F64 = torch.float64
interpreted = pytest.mark.skipif("triton" not in LATTICES, reason="a GPU is here: no interpreter")


def test_long_segments_are_summed_in_pieces() -> None:
    """Thousands of points on few vertices: all three passes of the splat, against the reference."""
    device = "cuda" if HAS_GPU else "cpu"
    features = 0.1 * torch.rand(1, 3000, 2, dtype=F64, device=device)
    values = torch.randn(1, 3000, 9, dtype=F64, device=device)
    ours, truth = (Lattice.build(features, backend=name) for name in ("triton", "reference"))
    assert all(len(table) for table in ours.structure[4:])
    for reverse in (False, True):
        torch.testing.assert_close(ours.filter(values, reverse), truth.filter(values, reverse))


@pytest.mark.usefixtures("on_chip")
@pytest.mark.parametrize("quality", ["classic", "high"])
def test_keys_wider_than_an_integer(quality: str) -> None:
    features = (1e4 * torch.randn(2, 20, 6, dtype=F64)).requires_grad_()
    values, mask = torch.randn(2, 20, 2, dtype=F64), torch.rand(2, 20) > 0.2
    results = []
    for name in ("triton", "reference"):
        built = Lattice.build(features, quality, mask, name)
        out = built.filter(values)
        results.append([torch.tensor(built.num_vertices), out, *torch.autograd.grad(out.sum(), features)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.usefixtures("on_chip")
@pytest.mark.parametrize("dtype, dimension, far", [(torch.float32, 8, 1e5), (F64, 5, 1e9)])
def test_keys_far_from_the_origin(dtype: torch.dtype, dimension: int, far: float) -> None:
    """One axis with a large offset: the offset of all keys does not fit 64 bits, the keys do."""
    features = 60 * torch.rand(1, 30, dimension, dtype=dtype)
    features[..., 0] = features[..., 0] / 20 + far
    values = torch.randn(1, 30, 2, dtype=dtype)
    ours, truth = (Lattice.build(features, backend=name) for name in ("triton", "reference"))
    assert ours.num_vertices == truth.num_vertices
    torch.testing.assert_close(ours.filter(values), truth.filter(values))


@pytest.mark.usefixtures("on_chip")
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 5, 37])
def test_half_values_are_summed_in_float32(kind: torch.dtype, channels: int) -> None:
    features, values = torch.randn(1, 50, 3), torch.randn(50, channels).to(kind)
    built, truth = (
        Lattice.build(features, backend="triton"),
        Lattice.build(features.double(), backend="reference"),
    )
    out = torch.ops.crfrnn.lattice_filter("triton", values, built.weights, False, *built.structure)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), truth.filter(values.double()[None])[0], rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("on_chip")
@pytest.mark.parametrize("grid", [(37,), (7, 9), (3, 4, 5)])
def test_the_band_equals_the_separable_filter(grid: tuple[int, ...]) -> None:
    """Values and, axis by axis, the derivative by θ, against float64 and autograd."""
    from crfrnn.crf.triton.band import Band

    theta = (torch.rand(len(grid), dtype=F64) + 0.8).requires_grad_()
    values = torch.randn(2, *grid, 3, dtype=F64)
    rows = values.reshape(-1, 3).float()
    band = Band(grid, len(rows), theta.detach().float(), 3)
    truth = separable_filter(values, theta)
    ours = band(rows, None)
    torch.testing.assert_close(ours.double(), truth.detach().reshape(-1, 3), rtol=1e-5, atol=1e-5)
    weight = torch.randn_like(truth)
    (slope,) = torch.autograd.grad((truth * weight).sum(), theta)
    for axis in range(len(grid)):
        along = band(rows, None, axis).double()
        torch.testing.assert_close((along * weight.reshape(-1, 3)).sum(), slope[axis], rtol=1e-4, atol=1e-4)


@interpreted
@pytest.mark.parametrize("length, width", [(500, 10500), (2049, 257), (3, 1), (10**5, 10**6)])
def test_a_band_fits_the_tiles_of_the_interpreter(length: int, width: int) -> None:
    """A picture of 500 x 500 with 21 labels did not fit: Triton allows 2²⁰ numbers in a tile."""
    from crfrnn.crf.triton.band import band_tile

    high, taps, columns = band_tile(length, width)
    assert min(high, taps, columns) >= 16  # required by a product of tiles
    assert max(high * columns, taps * columns, high * taps) <= 2**20


def operator_arguments() -> dict[str, tuple[Any, ...]]:
    features = torch.randn(1, 12, 2, requires_grad=True)
    built = torch.ops.crfrnn.lattice_build("triton", features, None, 1.0, 0, 1, 1, False)
    weights, structure = built[0].detach().requires_grad_(), built[1:]
    values = torch.randn(12, 3, requires_grad=True)
    return {
        "lattice_build": ("triton", features, None, 1.0, 0, 1, 1, False),
        "lattice_filter": ("triton", values, weights, False, *structure),
        "lattice_feature_gradient": ("triton", weights.detach(), features.detach(), 1.0, *structure),
    }


@interpreted
@pytest.mark.parametrize("name", ["lattice_build", "lattice_filter", "lattice_feature_gradient"])
def test_opcheck(name: str) -> None:
    backend.find("triton")
    torch.library.opcheck(
        getattr(torch.ops.crfrnn, name).default,
        operator_arguments()[name],
        test_utils=["test_schema", "test_autograd_registration", "test_faketensor"],
    )


@interpreted
def test_the_gradient_of_features_copies_nothing_to_the_device_twice() -> None:
    """A copy synchronises and breaks the capture of a graph: the constants are kept on the device."""
    from crfrnn.lattice.triton import build

    one, two = (build._scales(3, scale, torch.float32, torch.device("cpu")) for scale in (1.0, 1.0))
    other = build._scales(3, 1.0, F64, torch.device("cpu"))
    assert one is two and other.dtype == F64
    torch.testing.assert_close(one.double(), other)
    assert other[0] == pytest.approx((2 / 3) ** 0.5 * 4 / 2**0.5) and other[3] == 0.25


@interpreted
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_autocast_does_not_change_the_weights(backend: str) -> None:
    features = torch.randn(1, 40, 3)
    expected = Lattice.build(features, "high", backend=backend).weights
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(Lattice.build(features, "high", backend=backend).weights, expected)


def test_errors_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    module = backend.find("triton")
    monkeypatch.setattr(module, "INTERPRETED", False)
    with pytest.raises(ValueError, match=r'"triton" works on CUDA tensors, got one on cpu'):
        Lattice.build(torch.rand(1, 5, 2), backend="triton")
    monkeypatch.setattr(module, "INTERPRETED", True)
    with (
        monkeypatch.context() as patch,
        pytest.raises(ValueError, match=r"^features: .*build kernels before"),
    ):
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        Lattice.build(torch.rand(1, 5, 2), backend="triton")


def test_every_kernel_compiles_for_a_gpu(tmp_path: Path) -> None:
    """To machine code for sm_90, with Triton's own assembler: no GPU is needed."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    script = Path(__file__).parents[1] / "gpu" / "triton_targets.py"
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("shared memory") == 32
    assert not re.search(r" [1-9]\d* bytes of stack", done.stdout), done.stdout  # a spill
    shared = [int(n) for n in re.findall(r"(\d+) bytes of shared memory", done.stdout)]
    assert max(shared) <= 227 * 1024, done.stdout  # the limit for a program on an H100 or H200
    # Rows of a lattice are read four numbers at a time: all of a blur's, one vertex per corner in the update.
    loads = re.findall(r"^(\w+) *\d*:.*loads of one, two, four: \d+, \d+, (\d+)$", done.stdout, re.MULTILINE)
    assert ("blur_axis", "6") in loads and ("update_kernel", "6") in loads, done.stdout


@pytest.mark.skipif(not HAS_GPU, reason="no GPU")
def test_a_cuda_tensor_uses_triton_by_default() -> None:
    features = torch.rand(1, 30, 3, device="cuda")
    built = Lattice.build(features)
    assert built.backend == "triton"
    truth = Lattice.build(features.double(), backend="reference")
    values = torch.rand(1, 30, 4, device="cuda")
    torch.testing.assert_close(
        built.filter(values).double(), truth.filter(values.double()), rtol=1e-4, atol=1e-4
    )


def test_more_dimensions_than_a_program_holds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^features: expected 1 to 8 .*guide_components=3.*CPU"):
        Lattice.build(torch.rand(1, 5, 9, device="cuda" if HAS_GPU else "cpu"), backend="triton")
