# SPDX-License-Identifier: MIT
"""Tiles: windows sum to one, results match the untiled picture, no seams, memory within the limit."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage import data
from torch import Tensor, nn
from torch.nn import functional as F

from colour_network import colour_segmenter
from crfrnn import CRFRNN, Lattice, Predictor, Segmenter
from crfrnn.inference.enlarge import enlarge
from crfrnn.inference.guide import Guide, shared_directions, vertices_per_pixel
from crfrnn.inference.memory import crf_pixel, tile_within
from crfrnn.inference.windows import windows
from crfrnn.io import InMemory
from crfrnn.models import Preprocessing

PHOTOGRAPH = data.astronaut()[:288, :420]


@given(st.integers(1, 2500), st.integers(1, 1200), st.integers(0, 300))
def test_windows_cover_an_axis_with_weights_that_sum_to_one(length: int, tile: int, overlap: int) -> None:
    found = windows(length, tile, overlap)
    total = np.zeros(length)
    for window in found:
        total[window.start : window.stop] += window.weights
        assert window.stop - window.start <= tile and window.weights.min() >= 0
        assert tile < 256 or window.start % 32 == 0
    assert np.abs(total - 1).max() < 1e-6
    for one, other in pairwise(found):
        size = one.stop - one.start
        assert one.stop - other.start >= min(overlap, size // 4)
        assert other.stop - other.start == size


class Local(nn.Module):
    """Two strided layers, a dilated layer and coarse logits; the receptive field is within 24 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(),
            nn.Conv2d(8, 5, 3, padding=2, dilation=2),
        )  # fmt: skip

    def forward(self, picture: Tensor) -> Tensor:
        return 20 * self.layers(picture)


@pytest.mark.parametrize("long_side", [None, 384])
def test_a_local_network_gives_in_tiles_the_logits_of_the_whole_picture(long_side: int | None) -> None:
    segmenter, image = Segmenter(Local()), PHOTOGRAPH[:280]  # 384: 256 rows, also a multiple of the stride
    whole = Predictor(segmenter, long_side=long_side)(image, probabilities=True)
    tiled = Predictor(segmenter, long_side=long_side, tile=256)(image, probabilities=True)
    assert whole.tiles == 1 and tiled.tiles >= 2
    assert whole.probabilities is not None and tiled.probabilities is not None
    assert np.abs(tiled.probabilities - whole.probabilities).max() < 1e-5
    assert len(whole.areas) > 1 and (tiled.labels != whole.labels).mean() < 1e-4
    np.testing.assert_allclose(tiled.probabilities.sum(0), 1, atol=1e-5)


def test_errors_at_the_seams_of_tiles_are_those_of_other_places() -> None:
    predictor = Predictor(colour_segmenter(0.4), iterations=5)
    whole = predictor(PHOTOGRAPH, probabilities=True)
    tiled = Predictor(colour_segmenter(0.4), iterations=5, tile=256, overlap=64)(
        PHOTOGRAPH, probabilities=True
    )
    cut = 210
    halves = [predictor(part, probabilities=True) for part in np.split(PHOTOGRAPH, [cut], axis=1)]
    naive = np.concatenate([half.probabilities for half in halves if half.probabilities is not None], 2)

    def jumps(found: np.ndarray) -> np.ndarray:
        """The change of the error between adjacent columns, relative to the median over all columns."""
        assert whole.probabilities is not None
        steps = np.abs(np.diff(found - whole.probabilities, axis=2)).mean((0, 1))
        return steps / np.median(steps)

    assert tiled.probabilities is not None and tiled.tiles == 6
    edges = {w.start - 1 for w in windows(420, 256, 64)} | {w.stop - 1 for w in windows(420, 256, 64)}
    seams = jumps(tiled.probabilities)[sorted(edges - {-1, 419})]
    assert jumps(naive)[cut - 1] > 20  # without blending there is an obvious jump
    assert seams.max() < 3
    assert (tiled.labels != whole.labels).mean() < 0.005


class Bright(nn.Module):
    """Per-pixel logits of the brightness, so equal in every tile, with position-dependent noise."""

    preprocessing = Preprocessing()

    def __init__(self, noise: Tensor) -> None:
        super().__init__()
        self.noise, self.calls = noise, 0

    def forward(self, picture: Tensor) -> Tensor:
        self.calls += 1
        index = picture[:, 2].long()  # the third band is the pixel index, the other two are the picture
        bright = picture[:, :2].sum(1) * 4 / 511
        levels = torch.arange(4.0).reshape(1, 4, 1, 1) + 0.5
        return 2 * (-((bright[:, None] - levels) ** 2)) + self.noise[index].permute(0, 3, 1, 2)


def test_a_network_s_tiles_agree_with_the_whole_picture_as_given_scores_do() -> None:
    """The tolerance in docs/big-pictures.md, with the same lattice, blending and overlap for both."""
    network = Bright(torch.randn(256, 4, generator=torch.Generator().manual_seed(0)))
    crf = CRFRNN(4, theta_alpha=15.0, theta_beta=6.0, theta_gamma=2.0)
    whole = Predictor(Segmenter(network, crf))(PHOTOGRAPH, probabilities=True)
    assert network.calls == 1  # the labels before the CRF come from the same call
    tiled = Predictor(Segmenter(network, crf), tile=256)(PHOTOGRAPH, probabilities=True)
    assert (whole.tiles, tiled.tiles, network.calls) == (1, 6, 7)
    assert whole.probabilities is not None and tiled.probabilities is not None
    assert np.abs(tiled.probabilities - whole.probabilities).mean() < 1e-4
    assert (tiled.labels != whole.labels).mean() < 2e-4
    np.testing.assert_array_equal(tiled.before, whole.before)
    plain = Predictor(Segmenter(network, crf), use_crf=False)(PHOTOGRAPH)
    np.testing.assert_array_equal(whole.before, plain.labels)
    assert plain.changed == 0 and whole.changed == (whole.labels != plain.labels).mean() > 0.05


def test_all_tiles_of_a_network_share_the_guide_s_principal_components() -> None:
    network = Bright(torch.randn(256, 4, generator=torch.Generator().manual_seed(0)))
    crf = CRFRNN(4, theta_alpha=15.0, theta_beta=6.0, theta_gamma=2.0, guide_components=2)
    segmenter = Segmenter(network, crf)
    tiled = Predictor(segmenter, tile=256)(PHOTOGRAPH, probabilities=True)
    image = torch.from_numpy(PHOTOGRAPH).permute(2, 0, 1)
    directions = shared_directions(crf.eval(), Guide(InMemory(image.numpy()), segmenter.guide))
    with torch.no_grad():
        unary = segmenter.unary(image[None])
        whole = crf(unary, segmenter.guide(image[None]), guide_components=directions)[0].softmax(0).numpy()
    assert tiled.probabilities is not None and np.abs(tiled.probabilities - whole).mean() < 1e-4
    assert (tiled.labels != whole.argmax(0)).mean() < 2e-4


@pytest.mark.parametrize("options", [{"tile": 256}, {"tile": 256, "use_crf": False}, {"memory": 4096}])
def test_windows_equal_the_picture_in_memory(options: dict[str, Any]) -> None:
    segmenter, image = colour_segmenter(0.4), InMemory(PHOTOGRAPH.transpose(2, 0, 1))
    expected = Predictor(segmenter, **options)(PHOTOGRAPH, probabilities=True)
    labels, p = np.full(PHOTOGRAPH.shape[:2], -1), np.zeros((4, *PHOTOGRAPH.shape[:2]), np.float32)

    def write(top: int, left: int, found: np.ndarray, q: np.ndarray, valid: object) -> None:
        part = slice(top, top + found.shape[0]), slice(left, left + found.shape[1])
        assert valid is None and (labels[part] == -1).all()
        labels[part], p[:, part[0], part[1]] = found, q

    done = Predictor(segmenter, **options).by_windows(image, write)
    np.testing.assert_array_equal(labels, expected.labels)
    np.testing.assert_array_equal(p, expected.probabilities)
    assert done.areas == expected.areas and done.changed == pytest.approx(expected.changed)
    assert done.as_dict() == expected.as_dict()
    with pytest.raises(ValueError, match="image: expected 3 channels"):
        Predictor(segmenter).by_windows(InMemory(np.zeros((4, 9, 9), np.uint8)), write)


@pytest.mark.parametrize("bands", [[9], [4, 5], [1, 1, 1, 6]])
def test_rows_are_enlarged_in_pieces_as_in_one(bands: list[int]) -> None:
    small = torch.rand(3, 9, 7)
    pieces = zip(np.cumsum([0, *bands[:-1]]).tolist(), small.split(bands, 1), strict=True)
    found = list(enlarge(iter(pieces), 9, 41, 20))
    assert [start for start, _, _ in found] == np.cumsum(
        [0, *(p.values.shape[1] for _, _, p in found[:-1])]
    ).tolist()
    expected = F.interpolate(small[None], size=(41, 20), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(
        torch.cat([torch.from_numpy(part.values) for _, _, part in found], 1), expected, atol=1e-6, rtol=0
    )


def test_the_tile_follows_from_the_memory() -> None:
    size, needs = (1500, 2000), {"overlap": 128, "held": 60, "least": 256}
    sides = [tile_within(memory, size, 2000.0, 42, **needs) for memory in (300, 500, 1000, 100_000)]
    assert sides == sorted(sides) and sides[0] >= 256 and sides[-1] >= 2000 > sides[2]
    # A tile's memory is that of its pixels and of the seams, and within the limit.
    assert 2000 * sides[1] ** 2 + 4 * 42 * 128 * 2000 < 440 * 2**20
    with pytest.raises(ValueError, match=r"^memory: expected at least \d+ MiB"):
        tile_within(20, size, 2000.0, 42, **needs)


MEASURE = """
import resource, numpy as np, torch
from crfrnn import CRFRNN, Predictor, Segmenter
from crfrnn.models import LiteFPN
torch.set_num_threads(1)
torch.manual_seed(0)
segmenter = Segmenter(LiteFPN(21, channels=32), CRFRNN(21))
rng = np.random.default_rng(0)
image = rng.integers(0, 256, (20, 20, 3)).repeat(24, 0).repeat(24, 1)
rough = (image + rng.normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8)
def peak():
    try:  # Linux counts in ru_maxrss what the parent had before it started this process
        lines = open("/proc/self/status").read().splitlines()
        return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM"))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
Predictor(segmenter)(rough[:64, :64])
before = peak()
for memory in (200, 8192):
    print(Predictor(segmenter, memory=memory)(rough).tiles, peak() - before)
"""


@pytest.mark.slow
def test_a_picture_takes_no_more_memory_than_allowed() -> None:
    pytest.importorskip("resource")
    words = [sys.executable, "-c", MEASURE]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    (tiles, peak), (pieces, ample) = (map(float, line.split()) for line in said)
    assert tiles > 1 and peak < 200
    assert pieces == 1 and ample > 200  # the limit had an effect


def test_rough_pictures_get_smaller_tiles() -> None:
    """Noise needs at least one lattice vertex per pixel, a flat picture almost none."""
    crf = colour_segmenter().crf
    assert crf is not None
    flat = np.full((3, 300, 300), 90, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (3, 300, 300), np.uint8)
    few, many = (vertices_per_pixel(crf, Guide(InMemory(image), lambda p: p)) for image in (flat, noise))
    lattice = crf.kernels(torch.from_numpy(noise)[None, :, :128, :128])[1].operator
    assert isinstance(lattice, Lattice)
    assert few < 0.01 and many == pytest.approx(lattice.num_vertices / 128**2, rel=0.05)
    assert crf_pixel(4, many) > crf_pixel(4, few) + 225 * (many - few) - 1
