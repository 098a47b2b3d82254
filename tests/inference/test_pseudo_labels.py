# SPDX-License-Identifier: MIT
"""`refine_labels` reproduces the published pipelines with pydensecrf, and batching changes nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from skimage import data, filters, transform

from compat_pictures import theirs_by
from crfrnn.inference.pseudo import CAM_CRFS, CamCRF, cam_crf, refine_labels
from crfrnn.io import Cams, unary_from_labels


def photograph(name: str, height: int, width: int) -> np.ndarray:
    picture = transform.resize(getattr(data, name)(), (height, width), anti_aliasing=True)
    return np.rint(255 * picture).astype(np.uint8)


def activation(image: np.ndarray, seed: int, classes: int = 2) -> Cams:
    """Blurred colour similarities: coarse blobs that follow the picture loosely, like activation maps."""
    rng = np.random.default_rng(seed)
    maps = []
    for _ in range(classes):
        y, x = (int(rng.integers(n // 4, 3 * n // 4)) for n in image.shape[:2])
        far = ((image.astype(float) - image[y, x]) ** 2).sum(-1)
        rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
        near = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * 25.0**2))
        score = filters.gaussian(np.exp(-far / (2 * 60.0**2)) * near, 4)
        maps.append(score / score.max())
    return Cams(torch.tensor(np.stack(maps), dtype=torch.float32), np.array([15, 8, 3][:classes]))


def inferred(recipe: str, image: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """Marginals by pydensecrf2 with the recipe's kernels."""
    rows = np.ascontiguousarray(energy.reshape(len(energy), -1).astype(np.float32))
    return theirs_by(CAM_CRFS[recipe].preset, image, rows).reshape(energy.shape)


def published(recipe: str, image: np.ndarray, cams: Cams) -> np.ndarray:
    """Each pipeline reimplemented from its description, with pydensecrf2 for the inference."""
    maps, keys = cams.scores.numpy(), np.array([0, *cams.labels])
    found = []
    if recipe == "irn":
        for threshold in (0.30, 0.05):
            given = np.concatenate([np.full((1, *image.shape[:2]), threshold), maps]).argmax(0)
            energy = np.full((len(keys), *image.shape[:2]), -np.log(0.3 / (len(keys) - 1)))
            np.put_along_axis(energy, given[None], -np.log(0.7), 0)
            found.append(inferred(recipe, image, energy))
    elif recipe == "toco":
        for threshold in (0.70, 0.25):
            scores = np.concatenate([np.full((1, *image.shape[:2]), threshold, np.float32), maps])
            found.append(inferred(recipe, image, -log_softmax(scores, 0)))
    else:
        for alpha in {"affinitynet": (4, 32), "seam": (4, 24), "clip-es": (1,), "more": (1,)}[recipe]:
            scores = np.concatenate([(1 - maps.max(0, keepdims=True)) ** alpha, maps])
            found.append(inferred(recipe, image, -np.log(scores.clip(1e-5, 1.0))))
    first, last = (keys[q.argmax(0)] for q in (found[0], found[-1]))
    if recipe == "more":
        return first
    if recipe == "clip-es":
        return np.where(found[0].max(0) < 0.95, 255, first)
    if recipe in ("affinitynet", "seam"):
        return np.where(last == 0, 0, np.where(first == 0, 255, first))
    return np.where((first == 0) & (last == 0), 0, np.where(first == 0, 255, first))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [name for name, recipe in CAM_CRFS.items() if recipe.levels])
@pytest.mark.parametrize("name", ["chelsea", "coffee"])
def test_labels_are_those_of_the_published_pipeline(recipe: str, name: str) -> None:
    image = photograph(name, 120, 150)
    cams = activation(image, seed=3)
    if recipe == "toco":  # its background of 0.7 assumes maps of a refined network
        cams = Cams(cams.scores.sqrt(), cams.labels)
    wanted = published(recipe, image, cams)
    assert len(np.unique(wanted)) >= 3, "a picture on which nothing is decided tests nothing"
    (found,) = refine_labels([image], [cams], recipe, quality="classic")
    assert (found == wanted).mean() >= 0.999
    (quick,) = refine_labels([image], [cams], recipe)
    assert (quick == wanted).mean() > 0.99


@pytest.mark.parametrize("recipe", ["excel", "weclip", "afa", "dupl", "seco", "cutler", "manga"])
def test_scores_and_masks_are_refined_as_published(recipe: str) -> None:
    image = photograph("coffee", 90, 110)
    cams = activation(image, seed=3)
    if recipe in ("cutler", "manga"):
        mask = (cams.scores[0] > 0.4).numpy().astype(np.float32)
        both = np.stack([1 - mask, mask])
        energy = -log_softmax(both, 0) if recipe == "cutler" else -np.log(both.clip(1e-5, 1))
        given = unary_from_labels(torch.from_numpy(both).argmax(0), 2, gt_prob=CAM_CRFS[recipe].gt_prob)
    else:
        given = 4 * torch.cat([torch.full_like(cams.scores[:1], 0.3), cams.scores])
        energy = -log_softmax(given.numpy(), 0)
    wanted = inferred(recipe, image, energy).argmax(0)
    assert (wanted != given.argmax(0).numpy()).mean() > 0.005, "a CRF that changes nothing tests nothing"
    (found,) = refine_labels([image], [given], recipe, quality="classic")
    assert (found == wanted).mean() >= 0.999


def test_batching_changes_nothing() -> None:
    images = [
        photograph(n, *s) for n, s in (("chelsea", (60, 80)), ("coffee", (64, 76)), ("rocket", (40, 90)))
    ]
    images.append(photograph("astronaut", 61, 80))
    cams = [activation(image, k, classes=2 if k < 3 else 3) for k, image in enumerate(images)]
    together = refine_labels(images, cams, "seam")
    for image, own, found in zip(images, cams, together, strict=True):
        (alone,) = refine_labels([image], [own], "seam")
        assert found.shape == image.shape[:2] and found.dtype == np.uint8
        assert (found == alone).mean() > 0.999


def test_scores_of_all_labels_are_refined_and_argmaxed() -> None:
    image = photograph("chelsea", 50, 60)
    logits = torch.randn(21, 50, 60) + 4 * (torch.arange(21)[:, None, None] == 8)
    (found,) = refine_labels([image], [logits], replace(CAM_CRFS["irn"], iterations=5))
    crf = CAM_CRFS["irn"].crf(21)
    with torch.no_grad():
        own = crf(logits[None], torch.from_numpy(image).permute(2, 0, 1)[None], iterations=5)[0].argmax(0)
    assert np.array_equal(found, own.numpy())


@pytest.mark.parametrize("certain", [None, 0.9])
def test_scores_of_any_type_give_the_labels_of_their_values(certain: float | None) -> None:
    image, recipe = photograph("chelsea", 50, 60), replace(CAM_CRFS["irn"], certain=certain)
    generator = torch.Generator().manual_seed(0)
    half = (3 * torch.randn(1, 30, 6, 7, generator=generator)).half()
    half = torch.nn.functional.interpolate(half.float(), (50, 60), mode="bilinear")[0].half()
    expected = refine_labels([image], [half.float()], recipe)[0]
    assert len(np.unique(expected)) > 4 and (certain is not None) == (expected == 255).any()
    for scores in (half, half.double()):
        assert np.array_equal(refine_labels([image], [scores], recipe)[0], expected)


def test_a_picture_without_a_class_is_background() -> None:
    image = photograph("chelsea", 12, 14)
    for recipe in ("irn", "seam"):
        (found,) = refine_labels([image], [Cams(torch.zeros(0, 12, 14), np.zeros(0, int))], recipe)
        assert not found.any()


def test_two_levels_are_combined_as_each_paper_says() -> None:
    """Without iterations the labels depend on the scores only: certain, uncertain, background."""
    image = np.zeros((1, 3, 3), np.uint8)
    cams = Cams(torch.tensor([[[0.9, 0.2, 0.01]]]), np.array([7]))
    recipe = replace(CAM_CRFS["irn"], iterations=0)
    assert refine_labels([image], [cams], recipe)[0].tolist() == [[7, 255, 0]]
    crossed = replace(recipe, levels=(0.05, 0.30))  # the strict level comes second: both find 0.2
    assert refine_labels([image], [cams], crossed)[0].tolist() == [[7, 7, 0]]
    crossed = replace(crossed, background_wins=True)
    assert refine_labels([image], [cams], crossed)[0].tolist() == [[7, 0, 0]]
    sure = replace(CAM_CRFS["clip-es"], iterations=0, certain=0.85)
    assert refine_labels([image], [cams], sure)[0].tolist() == [[7, 255, 0]]


@pytest.mark.parametrize(
    ("scores", "labels", "named"),
    [
        (torch.zeros(2, 3), [1], "scores: expected a floating-point"),
        (torch.zeros(1, 2, 3, dtype=torch.int64), [1], "scores: expected a floating-point"),
        (torch.full((1, 2, 3), 1.5), [1], "scores: expected finite values in 0..1"),
        (torch.full((1, 2, 3), float("nan")), [1], "scores: expected finite values in 0..1"),
        (torch.zeros(2, 2, 3), [1], "labels: expected 2 integers"),
        (torch.zeros(2, 2, 3), [1, 1], "labels: expected different"),
        (torch.zeros(1, 2, 3), [0], "labels: expected different"),
    ],
)
def test_bad_maps_are_named(scores: torch.Tensor, labels: list[int], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}"):
        Cams(scores, np.array(labels))


def test_bad_calls_are_named() -> None:
    image, cams = np.zeros((4, 5, 3), np.uint8), Cams(torch.zeros(1, 4, 5), np.array([1]))
    for call, named in (
        (([image], []), "maps: expected one for each"),
        (([image[..., 0]], [cams]), "images: expected uint8"),
        (([image], [torch.zeros(2, 5, 4)]), "maps: expected Cams or a tensor"),
        (([image], [torch.zeros(256, 4, 5)]), "maps: expected 1..255"),
        (([image], [cams], "deeplab"), "recipe: expected one of"),
        (([image], [cams], "weclip"), "levels: expected one or two numbers .* irn, affinitynet"),
    ):
        with pytest.raises(ValueError, match=f"^{named}"):
            refine_labels(*call)
    for change, named in (({"levels": (0.1, 0.2, 0.3)}, "levels"), ({"background": "none"}, "background")):
        with pytest.raises(ValueError, match=f"^{named}"):
            replace(cam_crf("irn"), **change)
    assert isinstance(cam_crf(CAM_CRFS["irn"]), CamCRF)
