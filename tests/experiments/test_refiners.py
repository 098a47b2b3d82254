# SPDX-License-Identifier: MIT
"""Each refiner against a slow implementation of its equation, or a picture with a known result."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch

from crfrnn import CRFRNN
from crfrnn.experiments.refiners import NAMES, Refiner, Scene, after_crf, learned, refiner
from crfrnn.experiments.refiners.adaptive import DILATIONS
from crfrnn.experiments.refiners.crfs import for_labels, refined
from crfrnn.experiments.refiners.solver import bilateral_solver

RED, BLUE = (200, 40, 30), (30, 50, 210)


def scene(height: int = 14, width: int = 17, labels: int = 3, seed: int = 0) -> Scene:
    """Noise in colours and scores; labels with gaps."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    logits = torch.from_numpy(rng.normal(0, 1.5, (labels, height, width)).astype(np.float32))
    return Scene("a", image, logits.log_softmax(0), np.arange(labels) * 4 + 1, focus=5)


def halves(gap: int, sure: float = 0.97) -> tuple[Scene, np.ndarray]:
    """Red next to blue, labels 0 and 5 of the three that are possible; the middle is unknown."""
    truth = np.repeat((np.arange(24) >= 11)[None], 20, 0) * 2
    image = np.where(truth[..., None] == 0, RED, BLUE).astype(np.uint8)
    p = np.full((3, 20, 24), (1 - sure) / 2)
    for label in (0, 2):
        p[label][truth == label] = sure
    middle = slice(11 - gap, 11 + gap)
    p[:, :, middle] = np.array([0.4, 0.2, 0.4])[:, None, None]
    logits = torch.from_numpy(p).float().log()
    return Scene("b", image, logits, np.array([0, 3, 5]), focus=5), np.array([0, 3, 5])[truth]


def averaged(found: Scene, weights: Any, iterations: int) -> np.ndarray:
    """p_i ← Σ_j w_ij p_j with w_ij of the function (colour i, colours j, σ, distances), pixel by pixel."""
    height, width = found.image.shape[:2]
    steps = [(y * d, x * d) for d in DILATIONS for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    distances = np.array([np.hypot(*step) for step in steps])
    p = found.probabilities.double().numpy()
    for _ in range(iterations):
        new = np.zeros_like(p)
        for y in range(height):
            for x in range(width):
                rows = np.array([min(max(y + dy, 0), height - 1) for dy, _ in steps])
                columns = np.array([min(max(x + dx, 0), width - 1) for _, dx in steps])
                here, there = found.image[y, x].astype(float), found.image[rows, columns].astype(float)
                sigma = np.concatenate([there, here[None]]).std(0)
                new[:, y, x] = p[:, rows, columns] @ weights(here, there, sigma, distances)
        p = new
    return p.argmax(0)


def softmax(values: np.ndarray) -> np.ndarray:
    e = np.exp(values - values.max())
    return e / e.sum()


def test_pamr_is_its_equation() -> None:
    def weights(here: Any, there: Any, sigma: Any, distances: Any) -> np.ndarray:
        return softmax((-np.abs(here - there) / (0.2 * sigma)).mean(1))

    found = refiner("pamr").run(scene(), contrast=0.2, iterations=2)
    assert np.array_equal(found, averaged(scene(), weights, 2))


def test_par_is_its_equation() -> None:
    def weights(here: Any, there: Any, sigma: Any, distances: Any) -> np.ndarray:
        colours = softmax((-((np.abs(here - there) / (0.4 * sigma)) ** 2)).mean(1))
        return colours + 0.3 * softmax(-((distances / (0.5 * distances.std())) ** 2))

    found = refiner("par").run(scene(), contrast=0.4, nearness=0.5, share=0.3, iterations=2)
    assert np.array_equal(found, averaged(scene(), weights, 2))


def test_the_solver_without_smoothness_averages_cells_by_confidence() -> None:
    one = scene(30, 40)
    p = one.probabilities.numpy()
    y, x = np.indices(one.image.shape[:2])
    r, g, b = one.image.transpose(2, 0, 1).astype(float)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    blue, red = (b - luma) / 1.772, (r - luma) / 1.402
    keys = np.stack([x // 8, y // 8, luma // 90, blue // 90, red // 90], -1).astype(int)
    sums: dict[tuple[int, ...], np.ndarray] = defaultdict(lambda: np.zeros(3))
    for i in np.ndindex(y.shape):
        sums[tuple(keys[i])] += p[(slice(None), *i)] * p[(slice(None), *i)].max()
    wanted = np.array(
        [[sums[tuple(keys[row, column])].argmax() for column in range(40)] for row in range(30)]
    )
    found = bilateral_solver(one, sigma_spatial=8.0, sigma_luma=90.0, sigma_chroma=90.0, smoothness=1e-9)
    assert (found == wanted).mean() > 0.995  # colours at the border of two cells


def test_the_solver_with_much_smoothness_averages_connected_cells() -> None:
    image = np.full((24, 30, 3), 120, np.uint8)
    logits = torch.zeros(2, 24, 30)
    logits[1, :, :12] = 2.0
    logits[0, :, 12:] = 2.0
    one = Scene("a", image, logits.log_softmax(0), np.array([0, 1]), focus=1)
    found = bilateral_solver(one, sigma_spatial=6.0, sigma_luma=9.0, sigma_chroma=9.0, smoothness=1e5)
    assert not found.any()  # label 0 has more pixels, all of one colour


@pytest.mark.parametrize("votes", ["labels", "probabilities"])
def test_superpixels_take_the_majority_label(votes: str) -> None:
    from skimage.segmentation import slic

    one = scene(40, 50)
    parts = slic(one.image, n_segments=20, compactness=5.0, start_label=0)
    given = np.eye(3)[one.winners] if votes == "labels" else one.probabilities.numpy().transpose(1, 2, 0)
    wanted = np.zeros_like(parts)
    for part in np.unique(parts):
        wanted[parts == part] = given[parts == part].sum(0).argmax()
    found = refiner("slic").run(one, pixels=100.0, compactness=5.0, votes=votes)
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize(
    "name", ["random-walker", "grabcut", "guided-filter", "bilateral-solver", "pamr", "crfrnn-default"]
)
def test_unknown_pixels_follow_the_edge(name: str) -> None:
    """The result has the data set's label numbers, although one label in between has no seeds."""
    one, truth = halves(gap=4)
    found = refiner(name)
    assert set(np.unique(found.labels(one, found.start))) <= {0, 3, 5}
    assert (found.labels(one, found.start) == truth).mean() > 0.99
    assert (one.labels[one.winners] == truth).mean() < 0.9


def test_grabcut_leaves_the_other_labels_to_the_scores() -> None:
    one = scene()
    found = refiner("grabcut").labels(one, refiner("grabcut").start)
    rest = one.logits.clone()
    rest[1] = -torch.inf
    assert np.array_equal(found[found != 5], one.labels[rest.argmax(0).numpy()][found != 5])
    without = Scene("a", one.image, one.logits, np.array([0, 1, 2]), focus=5)
    assert np.array_equal(refiner("grabcut").run(without, **refiner("grabcut").start), one.winners)


def test_pydensecrf_and_ours_are_the_libraries_calls() -> None:
    import pydensecrf.densecrf as dcrf

    one, numbers = scene(), refiner("pydensecrf2").start
    crf = dcrf.DenseCRF2D(17, 14, 3)
    crf.setUnaryEnergy(np.ascontiguousarray(-one.logits.numpy().reshape(3, -1)))
    crf.addPairwiseGaussian(sxy=1, compat=3)
    crf.addPairwiseBilateral(sxy=67, srgb=3, rgbim=one.image, compat=4)
    wanted = np.array(crf.inference(10)).argmax(0).reshape(14, 17)
    assert np.array_equal(refiner("pydensecrf2").run(one, **numbers), wanted)
    image = torch.from_numpy(one.image).permute(2, 0, 1)[None]
    ours = CRFRNN(3, preset="deeplab").eval()(one.logits[None], image)[0].argmax(0).numpy()
    assert np.array_equal(refiner("crfrnn-tuned").run(one, **numbers), ours)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["vector", "matrix"])
def test_a_learned_crf_works_on_some_of_its_labels(kind: str) -> None:
    """Labels that are impossible send no message: removing them changes nothing."""
    one, crf = scene(), CRFRNN(12, label_weights=kind, temperature=1.3, iterations=4).eval()
    for parameter in (crf.spatial_weights, crf.bilateral_weights, crf.compatibility):
        parameter += 0.3 * torch.rand_like(parameter)
    whole = torch.full((12, 14, 17), -1e4)
    whole[one.labels] = one.logits
    image = torch.from_numpy(one.image).permute(2, 0, 1)[None]
    wanted = crf(whole[None], image)[0][one.labels]
    torch.testing.assert_close(refined(one, for_labels(crf, one.labels)), wanted, atol=1e-3, rtol=1e-4)
    assert np.array_equal(learned(crf).run(one), wanted.argmax(0).numpy())


def test_rankseg_after_a_crf_without_messages_is_rankseg() -> None:
    one, start = scene(), refiner("rankseg").start
    silent = after_crf({"spatial_weight": 1e-9, "bilateral_weight": 1e-9})
    assert np.array_equal(silent.run(one, **start), refiner("rankseg").run(one, **start))
    two = Scene("a", one.image, one.logits[:2].log_softmax(0), np.array([0, 1]), focus=1)
    # A label that is certain everywhere wins everywhere; the argmax of others may change.
    flat = Scene("a", one.image, torch.tensor([-9.0, 9.0])[:, None, None].expand(2, 14, 17), two.labels, 1)
    assert (refiner("rankseg").run(flat.corner(20), **start) == 1).all()


def test_a_scene_keeps_the_argmax_and_two_labels_at_least() -> None:
    logits = torch.randn(21, 9, 11, generator=torch.Generator().manual_seed(0)) * 8
    logits[5:] -= 30
    one = Scene.of("a", np.zeros((9, 11, 3), np.uint8), logits, 15)
    assert one.labels.tolist() == [0, 1, 2, 3, 4]
    assert np.array_equal(one.labels[one.winners], logits.argmax(0).numpy())
    torch.testing.assert_close(one.probabilities.sum(0), torch.ones(9, 11))
    logits[1:] -= 90
    assert len(Scene.of("a", np.zeros((9, 11, 3), np.uint8), logits, 15).labels) == 2


def test_every_name_has_a_refiner_and_start_lies_in_the_space() -> None:
    made = {"crfrnn-learned": learned(CRFRNN(3)), "crfrnn-rankseg": after_crf({})}
    found: list[Refiner] = [made.get(name) or refiner(name) for name in NAMES]
    assert [one.name for one in found] == list(NAMES) and len({one.title for one in found}) == len(NAMES)
    for one in found:
        assert set(one.start) == set(one.space)
        for name, ends in one.space.items():
            value: Any = one.start[name]
            inside = value in ends if isinstance(ends[0], str) else ends[0] <= value <= ends[1]
            assert inside, (one.name, name)


def test_labels_of_another_size_are_named() -> None:
    broken = Refiner("broken", "", "", lambda scene: np.zeros((2, 2), int))
    with pytest.raises(ValueError, match=r"broken: expected labels \(14, 17\), got \(2, 2\)"):
        broken.labels(scene(), {})
