# SPDX-License-Identifier: MIT
"""The permutohedral lattice against its definition, other implementations and the exact sum."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from classic_lattice import ClassicLattice
from conformance import LATTICES
from crfrnn import _native
from crfrnn.crf.features import grid_features, image_features
from crfrnn.crf.kernels import GaussianKernel
from crfrnn.lattice import Exact, Lattice, Quality, reference
from crfrnn.lattice.backend import BY_DEVICE, MODULES, NEEDED, choose, find, is_imported
from crfrnn.lattice.quality import QUALITIES

backends = pytest.mark.parametrize("backend", LATTICES)
dimensions = pytest.mark.parametrize("dimension", range(1, 9))
F64 = torch.float64


@dimensions
def test_elevation_is_a_scaled_isometry_onto_the_plane(dimension: int) -> None:
    points = torch.randn(20, dimension, dtype=F64)
    lifted = reference.elevate(points)
    size = dimension + 1
    torch.testing.assert_close(lifted.sum(-1), torch.zeros(20, dtype=F64), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        torch.cdist(lifted, lifted), (2 / 3) ** 0.5 * size * torch.cdist(points, points)
    )


@dimensions
def test_corners_enclose_the_point(dimension: int) -> None:
    """Σ w_r v_r = the lifted point with w ≥ 0, and every v_r is a lattice point of remainder r."""
    lifted = reference.elevate(3 * torch.randn(1, 50, dimension, dtype=F64))
    base, rank = reference.enclosing_simplex(lifted)
    size = dimension + 1
    weights = reference.barycentric(lifted, base, rank)
    rows = reference._corner_rows(base, rank)[..., 1:]
    corners = torch.cat([rows, -rows.sum(-1, keepdim=True)], -1)
    assert (corners % size == torch.arange(size).view(-1, 1)).all()
    assert weights.min() >= 0
    torch.testing.assert_close((weights.unsqueeze(-1) * corners).sum(2), lifted)


@backends
@given(
    seed=st.integers(0, 2**20),
    dimension=st.integers(1, 8),
    points=st.integers(0, 25),
    batch=st.integers(0, 3),
    spread=st.sampled_from([0.0, 0.01, 1.0, 30.0]),
    quality=st.sampled_from(["classic", "high", Quality(1.1, 1, 3), Quality(1.1, 1, 3, 2)]),
)
def test_properties(
    backend: str, seed: int, dimension: int, points: int, batch: int, spread: float, quality: str | Quality
) -> None:
    random = torch.Generator().manual_seed(seed)
    features = spread * torch.randn(batch, points, dimension, generator=random, dtype=F64)
    x, y = torch.rand(2, batch, points, 2, generator=random, dtype=F64)
    lattice = Lattice.build(features, quality, backend=backend)
    if quality != "high":  # which scales them
        total = lattice.weights.sum(-1)
        torch.testing.assert_close(total, torch.ones_like(total))
    assert lattice.weights.numel() == 0 or lattice.weights.min() > -1e-9
    assert (lattice.filter(x) >= -1e-9).all()
    torch.testing.assert_close((lattice.filter(x) * y).sum(), (x * lattice.filter(y, reverse=True)).sum())
    torch.testing.assert_close(lattice.filter(2 * x - y), 2 * lattice.filter(x) - lattice.filter(y))
    corners, ring = batch * points * (dimension + 1), 0 if isinstance(quality, str) else 2 * (dimension + 1)
    assert lattice.num_vertices <= corners * (1 + ring)


@backends
@dimensions
def test_a_step_of_the_lattice_changes_nothing(backend: str, dimension: int) -> None:
    """Translation by a lattice vector of remainder 0 maps the lattice onto itself."""
    features, values = torch.randn(1, 30, dimension, dtype=F64), torch.randn(1, 30, 2, dtype=F64)
    lift = reference.elevate(torch.eye(dimension, dtype=F64))  # rows: images of the unit vectors
    step = torch.zeros(dimension + 1, dtype=F64)
    step[0], step[-1] = 3 * (dimension + 1), -3 * (dimension + 1)
    shift = step @ torch.linalg.pinv(lift)
    out = Lattice.build(features, backend=backend).filter(values)
    torch.testing.assert_close(Lattice.build(features + shift, backend=backend).filter(values), out)


@pytest.mark.parametrize("channels", [17, 32, 33, 100, 1030])
@pytest.mark.parametrize("dimension", [2, 5])
def test_any_number_of_channels(channels: int, dimension: int) -> None:
    """One walk holds 1024 channels in float32 where a pack is widest: values and gradients."""
    points = 60 if channels <= 100 else 12
    features, values = 2 * torch.randn(2, points, dimension), torch.randn(2, points, channels)
    results = []
    for backend, dtype in (("cpu", torch.float32), ("cpu", F64), ("reference", F64)):
        x, f = values.to(dtype).requires_grad_(), features.to(dtype).requires_grad_()
        out = Lattice.build(f, backend=backend).filter(x)
        weight = torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out)
        results.append([out, *torch.autograd.grad((out * weight).sum(), [x, f])])
    ours, double, truth = results
    for a, b, c in zip(ours, double, truth, strict=True):
        torch.testing.assert_close(b, c)
        torch.testing.assert_close(a.double(), c, rtol=1e-4, atol=1e-4 * float(c.detach().abs().amax()))


@backends
@dimensions
@pytest.mark.parametrize("quality", ["classic", "high", "finest"])
def test_diagonal(backend: str, dimension: int, quality: str) -> None:
    if dimension > 6 and quality == "finest":
        return
    features, mask = torch.randn(2, 15, dimension, dtype=F64), torch.rand(2, 15) > 0.2
    lattice = Lattice.build(features, quality, mask, backend)
    dense = lattice.filter(torch.eye(15, dtype=F64).expand(2, 15, 15))
    torch.testing.assert_close(lattice.diagonal(), dense.diagonal(dim1=1, dim2=2))


@backends
@pytest.mark.parametrize("dimension", [2, 5])
def test_quality_settings(backend: str, dimension: int) -> None:
    features = 4 * torch.randn(1, 40, dimension, dtype=F64)
    classic = Lattice.build(features, "classic", backend=backend)
    ringed = Lattice.build(features, Quality(1.0, 1), backend=backend)
    assert classic.num_vertices < ringed.num_vertices <= (1 + 2 * (dimension + 1)) * classic.num_vertices
    twice = Lattice.build(features, Quality(1.0, 2), backend=backend)
    assert ringed.num_vertices < twice.num_vertices
    scaled = Lattice.build(features, Quality(1.06), backend=backend)  # a scale is a change of bandwidth
    torch.testing.assert_close(
        scaled.weights, Lattice.build(1.06 * features, "classic", backend=backend).weights
    )


@backends
@pytest.mark.parametrize("together", [1, 2, 3])
def test_many_rings_approach_a_shift_invariant_symmetric_filter(backend: str, together: int) -> None:
    """With no vertex missing the axis blurs commute, in groups or not: the operator is its own adjoint."""
    features, values = torch.randn(1, 12, 2, dtype=F64), torch.randn(1, 12, 3, dtype=F64)
    one_by_one = Lattice.build(features, Quality(1.0, 4), backend=backend).filter(values)
    lattice = Lattice.build(features, Quality(1.0, 4, 1, together), backend=backend)
    torch.testing.assert_close(lattice.filter(values), lattice.filter(values, reverse=True))
    torch.testing.assert_close(lattice.filter(values), one_by_one)


@backends
@dimensions
def test_groups_of_axes_are_those_of_the_definition(backend: str, dimension: int) -> None:
    """Against a dictionary of vertices, implemented from the paper."""
    features, values = torch.randn(2, 13, dimension, dtype=F64), torch.randn(2, 13, 2, dtype=F64)
    truth = ClassicLattice(features[0].numpy()).apply(values[0].numpy(), reference.axis_groups(dimension, 3))
    lattice = Lattice.build(features, Quality(together=3), backend=backend)
    torch.testing.assert_close(lattice.filter(values)[0], torch.from_numpy(truth))


def test_a_group_reaches_over_a_missing_vertex() -> None:
    """Vertices a step along two axes apart: axis by axis nothing passes, in a group of both a quarter."""
    lifted = torch.tensor([[0.0, 4, -4, 0], [0, 0, 0, 0]], dtype=F64)  # a step up one axis, down the other
    features = (lifted @ torch.linalg.pinv(reference.elevate(torch.eye(3, dtype=F64))))[None]
    values = torch.tensor([[[0.0], [1.0]]], dtype=F64)
    received = {
        together: float(Lattice.build(features, Quality(together=together)).filter(values)[0, 0])
        for together in (1, 3)
    }
    assert received[1] == pytest.approx(0, abs=1e-9)
    assert received[3] == pytest.approx(0.25 / (1 + 2**-3), rel=1e-6)


@pytest.mark.parametrize("dimension", [2, 3, 5, 6])
def test_links_over_an_empty_slab(dimension: int) -> None:
    """Points so sparse that an offset of a group leads to the slab but one, and none lies between."""
    features = 3 * torch.randn(12, 20, dimension, dtype=F64)
    values = torch.randn(12, 20, 2, dtype=F64)
    quality = Quality(together=3)
    ours, plain = (Lattice.build(features, quality, backend=name) for name in ("cpu", "reference"))
    table = ours.structure[0]
    parts = _native.TableShape(table[: _native.header_words].tolist()).parts
    slabs = table.split((*parts, table.numel() - sum(parts)))[6]
    assert (slabs.diff() == 0).any()
    for reverse in (False, True):
        torch.testing.assert_close(
            ours.filter(values, reverse=reverse), plain.filter(values, reverse=reverse)
        )


@backends
@pytest.mark.parametrize("dimension", [2, 3, 5])
def test_the_response_to_itself_is_one_among_other_points(backend: str, dimension: int) -> None:
    grid = torch.stack(torch.meshgrid(*[torch.arange(4.0, dtype=F64)] * dimension, indexing="ij"), -1)
    features = 0.35 * grid.reshape(1, -1, dimension)
    lattice = Lattice.build(features, "high", backend=backend)
    response = lattice.diagonal()
    assert 0.999 < float(response.amax()) < 1 + 1e-9
    assert float(response.mean()) > 0.95  # some vertices of border points are missing


# Finite differences take hundreds of filters, too many for the interpreter: its gradients are compared with
# the reference's in test_conformance.py.
@pytest.mark.slow
@pytest.mark.parametrize("backend", [b for b in LATTICES if b != "triton"])
@pytest.mark.parametrize("dimension", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("quality", ["classic", "high", "finest"])
def test_gradients_at_generic_points(backend: str, dimension: int, quality: str) -> None:
    if dimension > 3 and quality == "finest":
        return
    batch, points = (2, 5) if dimension <= 3 else (1, 4)  # otherwise there are thousands of vertices
    features = torch.randn(batch, points, dimension, dtype=F64, requires_grad=True)
    values = torch.randn(batch, points, 2, dtype=F64, requires_grad=True)

    def run(f: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, ...]:
        lattice = Lattice.build(f, quality, backend=backend)
        return lattice.filter(v), lattice.filter(v, reverse=True), lattice.diagonal()

    assert torch.autograd.gradcheck(run, (features, values), nondet_tol=0.0, eps=1e-7, atol=1e-5)


@backends
def test_keys_of_any_width(backend: str) -> None:
    """Widely spread float64 points in eight dimensions need more than 64 bits per vertex."""
    near = torch.randn(2, 6, 8, dtype=F64)
    far = near.clone()
    far[1] += 1e6 * torch.arange(1, 9)
    values = torch.randn(2, 6, 2, dtype=F64)
    wide = Lattice.build(torch.cat([far, 1e7 * torch.randn(2, 20, 8, dtype=F64)], 1), backend=backend)
    out = wide.filter(torch.cat([values, torch.zeros(2, 20, 2, dtype=F64)], 1))
    alone = Lattice.build(far, backend=backend).filter(values)
    torch.testing.assert_close(out[:, :6], alone)


def _peer_filter(features: torch.Tensor, logits: np.ndarray, weight: float) -> tuple[np.ndarray, np.ndarray]:
    """v = P(0) - P(1) and pydensecrf's raw K v, read from one unnormalised update."""
    import pydensecrf.densecrf as dcrf

    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    unary = np.ascontiguousarray(-np.log([p, 1 - p])).astype(np.float32)
    crf = dcrf.DenseCRF(len(p), 2)
    crf.setUnaryEnergy(unary)
    crf.addPairwiseEnergy(
        np.ascontiguousarray(features.T.numpy()),
        compat=weight * np.eye(2, dtype=np.float32),
        kernel=dcrf.DIAG_KERNEL,
        normalization=dcrf.NO_NORMALIZATION,
    )
    q = np.array(crf.inference(1)).astype(np.float64)
    return 2 * p - 1, -(np.log(q[0] / q[1]) + unary[0] - unary[1]) / weight


@backends
@pytest.mark.parametrize("case", ["demo", "readme", "spatial"])
def test_classic_equals_pydensecrf(backend: str, case: str) -> None:
    from skimage import data

    image = torch.from_numpy(data.astronaut()[:200:4, :240:4].copy()).permute(2, 0, 1).unsqueeze(0)
    features, weight = {
        "demo": (image_features(image, 160.0, 3.0), 0.05),
        "readme": (image_features(image, 80.0, 13.0), 0.005),
        "spatial": (grid_features((50, 60), torch.tensor([3.0, 3.0])).unsqueeze(0), 0.02),
    }[case]
    logits = np.random.default_rng(0).standard_normal(features.shape[1]).astype(np.float32)
    values, theirs = _peer_filter(features[0], logits, weight)
    lattice = Lattice.build(features, "classic", backend=backend)
    ours = lattice.filter(torch.from_numpy(values).float().view(1, -1, 1))[0, :, 0].numpy()
    assert np.linalg.norm(ours - theirs) < 3e-5 * np.linalg.norm(theirs)


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize(("case", "classic"), [("demo", 0.067), ("readme", 0.058)])
def test_accuracy_on_photographs(case: str, classic: float, shared: Path) -> None:
    """Relative L2 against the exact sum at 96², mean of four photographs: others have .064 and .056."""
    sys.path.insert(0, str(shared))
    try:
        from inputs import PARAMS, photo_and_logits  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(shared))
    alpha, beta = PARAMS[case][:2]
    error = dict.fromkeys(QUALITIES, 0.0)
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        image, logits = photo_and_logits(name, 96)
        marginals = torch.from_numpy(logits).softmax(0).flatten(1).T.unsqueeze(0)
        guide = torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0)
        vertices = {}
        for quality in QUALITIES:
            kernel = GaussianKernel.bilateral(guide, alpha, beta, quality=quality)
            error[quality] += kernel.error(marginals, rows=1500) / 4
            vertices[quality] = kernel.operator.num_vertices  # type: ignore[union-attr]
        assert vertices["high"] <= 1.1 * vertices["classic"]
        assert vertices["finest"] <= 8 * vertices["classic"]
    assert error["classic"] < classic
    assert error["default"] <= error["classic"]
    assert error["high"] <= 0.0325
    assert error["finest"] <= min(0.031, error["high"])


@pytest.mark.parametrize(
    ("features", "kind", "words"),
    [
        ([[0.0]], TypeError, "as_tensor"),
        (torch.zeros(1, 4, 2, dtype=torch.long), TypeError, "float"),
        (torch.zeros(4, 2), ValueError, "unsqueeze"),
        (torch.zeros(1, 4, 0), ValueError, "1 to 32"),
        (torch.zeros(1, 4, 33), ValueError, "1 to 32"),
        (torch.full((1, 4, 2), torch.nan), ValueError, "NaN"),
        (torch.full((1, 4, 2), torch.inf), ValueError, "infinite"),
        (torch.full((1, 4, 2), -1e6), ValueError, "float64"),
        (torch.full((1, 4, 2), 1e15, dtype=F64), ValueError, "bandwidth"),
    ],
)
def test_bad_features(features: object, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=f"^features: expected .*{words}"):
        Lattice.build(features)  # type: ignore[arg-type]


def test_bad_arguments() -> None:
    features = torch.rand(2, 4, 3)
    with pytest.raises(ValueError, match=r"^quality: expected one of 'classic'"):
        Lattice.build(features, "best")
    with pytest.raises(ValueError, match=r"^backend: expected None or one of"):
        Lattice.build(features, backend="cuda")
    with pytest.raises(TypeError, match=r"^mask: expected a bool"):
        Lattice.build(features, mask=torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"^mask: expected \(2, 4\)"):
        Lattice.build(features, mask=torch.ones(2, 5, dtype=torch.bool))
    lattice = Lattice.build(features, backend="reference")
    for values in (torch.ones(4, 3), torch.ones(2, 5, 1), torch.ones(3, 4, 1)):
        with pytest.raises(ValueError, match=r"^values: expected \[2, 4, C\]"):
            lattice.filter(values)
    with pytest.raises(TypeError, match=r"^values: expected floating"):
        lattice.filter(torch.ones(2, 4, 1, dtype=torch.long))
    with pytest.raises(ValueError, match=r"^values: expected a tensor on cpu"):
        lattice.filter(torch.ones(2, 4, 1, device="meta"))


def test_device_errors_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    points = ("lattice", torch.float32, 3)
    with pytest.raises(
        ValueError, match=r'expected tensors on cpu or cuda, got them on mps.*backend="reference"'
    ):
        choose(torch.device("mps"), *points)
    with pytest.raises(ValueError, match=r'"cpu" cannot work on cuda tensors.*backend="reference"'):
        choose(torch.device("cuda"), *points, "cpu")
    monkeypatch.setitem(MODULES, "absent", "crfrnn.lattice.not_built")
    monkeypatch.setitem(NEEDED, "absent", NEEDED["triton"])
    for ask in (find, lambda name: Lattice.build(torch.rand(1, 4, 2), backend=name)):
        with pytest.raises(ValueError, match=r'pip install triton.*not_built.*backend="reference"'):
            ask("absent")
    assert not is_imported("absent")


def test_an_exact_sum_falls_back_to_torch_and_a_lattice_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODULES, "gone", "crfrnn.lattice.not_built")
    monkeypatch.setitem(NEEDED, "gone", "a package")
    monkeypatch.setitem(BY_DEVICE, "cpu", "gone")
    features = torch.rand(1, 4, 2)
    assert Exact(features).filter(torch.ones(1, 4, 1)).min() >= 1
    with pytest.raises(ValueError, match="'gone' needs a package"):
        Lattice.build(features)
    with pytest.raises(ValueError, match="'gone' needs a package"):
        Exact(features, "gone").filter(torch.ones(1, 4, 1))


def test_a_lattice_is_frozen_and_moves() -> None:
    lattice = Lattice.build(torch.rand(1, 4, 2), backend="reference")
    with pytest.raises(AttributeError):
        lattice.backend = "cpu"  # type: ignore[misc]
    moved = lattice.to("cpu")
    assert moved.num_vertices == lattice.num_vertices and torch.equal(moved.weights, lattice.weights)
