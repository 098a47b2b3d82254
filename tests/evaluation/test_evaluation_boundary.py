# SPDX-License-Identifier: MIT
"""The boundary metrics against their definitions, written again with scipy's binary morphology."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from crfrnn.evaluation import (
    boundary_f_counts,
    boundary_iou_counts,
    confusion_matrix,
    mean_ratio,
    per_label_ratio,
    trimap_bins,
    trimap_confusion,
)
from crfrnn.evaluation.planes import dilate_disk, edges, erode_square, groups, planes


def masks(seed, labels=4, shape=(40, 53), void=True):
    """Blobs surrounded by a void band, and a prediction with slightly shifted blobs."""
    rng = np.random.default_rng(seed)
    fields = ndimage.gaussian_filter(rng.normal(size=(labels, *shape)), (0, 4, 4))
    truth = fields.argmax(0).astype(np.uint8)
    guess = (fields + ndimage.gaussian_filter(rng.normal(size=fields.shape), (0, 3, 3)) * 0.5).argmax(0)
    if void:
        border = ndimage.maximum_filter(truth, 3) != ndimage.minimum_filter(truth, 3)
        truth = np.where(border & (rng.random(shape) < 0.9), 255, truth).astype(np.uint8)
    return truth, guess


@pytest.mark.parametrize("seed", range(3))
def test_trimap_by_definition(seed):
    truth, guess = masks(seed, shape=(17, 23))
    points = np.argwhere(truth == 255)
    yy, xx = np.mgrid[:17, :23]
    squared = np.min((yy[..., None] - points[:, 0]) ** 2 + (xx[..., None] - points[:, 1]) ** 2, axis=-1)
    bands = trimap_confusion(truth, guess, 4, max_width=9)
    for width in range(1, 10):
        near = squared <= width**2  # squares of integers: no rounding
        expected = confusion_matrix(np.where(near, truth, 255), guess, 4)
        assert (bands[width - 1] == expected).all()
    shared = trimap_bins(truth, 9)
    assert (trimap_confusion(truth, guess, 4, max_width=9, bins=shared) == bands).all()


def test_a_picture_without_void_adds_nothing_to_the_trimap():
    truth, guess = masks(0, void=False)
    assert trimap_confusion(truth, guess, 4).sum() == 0
    assert trimap_confusion(truth, guess, 4).shape == (40, 4, 4)
    assert trimap_confusion(np.full((3, 3), 255), np.zeros((3, 3), int), 4).sum() == 0
    with pytest.raises(ValueError, match="max_width: expected at least 1"):
        trimap_confusion(truth, guess, 4, max_width=0)


def reference_inner_boundary(mask):
    """mask_to_boundary of Cheng et al.: one ring of zeros, iterated 3×3 erosion, the ring cut off again."""
    steps = max(1, round(0.02 * math.hypot(*mask.shape)))
    padded = np.pad(mask, 1)
    # As in OpenCV, pixels outside the array do not take part in the erosion; only the ring of zeros does.
    eroded = ndimage.binary_erosion(padded, np.ones((3, 3)), iterations=steps, border_value=1)[1:-1, 1:-1]
    return mask & np.logical_not(eroded)


@pytest.mark.parametrize("shape", [(40, 53), (7, 200), (3, 3), (1, 1), (150, 120)])
@pytest.mark.parametrize("void", [False, True])
def test_boundary_iou_by_definition(shape, void):
    truth, guess = masks(1, shape=shape, void=void)
    found = boundary_iou_counts(truth, guess, 6)
    for label in range(6):
        borders = [reference_inner_boundary((x == label) & (truth != 255)) for x in (truth, guess)]
        assert found[0, label] == (borders[0] & borders[1]).sum()
        assert found[1, label] == (borders[0] | borders[1]).sum()
        assert found[2, label] == borders[0].sum()


def reference_boundary(seg):
    """seg2bmap of the DAVIS code."""
    e, s, se = np.zeros_like(seg), np.zeros_like(seg), np.zeros_like(seg)
    e[:, :-1], s[:-1, :], se[:-1, :-1] = seg[:, 1:], seg[1:, :], seg[1:, 1:]
    b = seg ^ e | seg ^ s | seg ^ se
    b[-1, :] = seg[-1, :] ^ e[-1, :]
    b[:, -1] = seg[:, -1] ^ s[:, -1]
    b[-1, -1] = 0
    return b


def reference_f(truth, guess):
    """f_measure of the DAVIS code."""
    radius = math.ceil(0.008 * math.hypot(*truth.shape))
    yy, xx = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = yy**2 + xx**2 <= radius**2
    real, drawn = reference_boundary(truth), reference_boundary(guess)
    n_real, n_drawn = real.sum(), drawn.sum()
    if n_drawn == 0 or n_real == 0:
        precision, recall = (1.0 if n_drawn == 0 else 0.0), (1.0 if n_real == 0 else 0.0)
    else:
        precision = (drawn & ndimage.binary_dilation(real, disk)).sum() / n_drawn
        recall = (real & ndimage.binary_dilation(drawn, disk)).sum() / n_real
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("shape", [(40, 53), (130, 210), (7, 200), (3, 3), (1, 1), (1, 9)])
@pytest.mark.parametrize("void", [False, True])
def test_boundary_f_by_definition(shape, void):
    truth, guess = masks(2, shape=shape, void=void)
    found = boundary_f_counts(truth, guess, 6)
    valid = truth != 255
    for label in range(6):
        true, mine = (truth == label) & valid, (guess == label) & valid
        occurs = bool(true.any() or mine.any())
        assert found[1, label] == occurs
        assert found[2, label] == bool(true.any())
        assert found[0, label] == pytest.approx(reference_f(true, mine) if occurs else 0)


def test_boundary_f_of_empty_cases():
    whole, half = np.zeros((20, 20), int), np.zeros((20, 20), int)
    half[:, 10:] = 1
    assert boundary_f_counts(whole, whole, 2)[:, 0].tolist() == [1, 1, 1]  # no boundary anywhere: P = R = 1
    assert boundary_f_counts(half, whole, 2).tolist() == [[0, 0], [1, 1], [1, 1]]  # none predicted: R = 0
    assert boundary_f_counts(whole, half, 2).tolist() == [[0, 0], [1, 1], [1, 0]]  # none true: P = 0
    shifted = np.roll(half, 1, 1)
    shifted[:, 0] = 0
    assert boundary_f_counts(half, shifted, 2)[0].tolist() == [1, 1]  # one pixel off is within r = 1


@pytest.mark.parametrize("radius", [0, 1, 2, 5, 9, 30])
def test_planes_are_scipys_morphology(radius):
    rng = np.random.default_rng(radius)
    labels = rng.integers(0, 12, (21, 26))
    mask = rng.random(labels.shape) < 0.95
    for group in groups(range(12)):
        bytes_ = planes(labels, group, mask)
        yy, xx = np.mgrid[-radius : radius + 1, -radius : radius + 1]
        for bit, label in enumerate(group):
            one = (labels == label) & mask
            assert ((bytes_ >> bit & 1) == one).all()
            wide = ndimage.binary_dilation(one, yy**2 + xx**2 <= radius**2)
            assert ((dilate_disk(bytes_, radius) >> bit & 1) == wide).all()
            assert ((edges(bytes_) >> bit & 1) == reference_boundary(one)).all()
        solid = planes(ndimage.zoom(labels[:4, :4], (6, 7), order=0), group, np.ones((24, 28), bool))
        for bit in range(len(group)):
            eroded = ndimage.binary_erosion(solid >> bit & 1, np.ones((2 * radius + 1, 2 * radius + 1)))
            assert ((erode_square(solid, radius) >> bit & 1) == eroded).all()


def test_more_labels_than_a_byte_holds():
    truth, guess = masks(3, labels=21)
    together_iou, together_f = boundary_iou_counts(truth, guess, 21), boundary_f_counts(truth, guess, 21)
    for label in range(21):
        single = [np.where(x == 255, 255, (x == label).astype(int)) for x in (truth, guess)]
        assert (boundary_iou_counts(*single, 2)[:, 1] == together_iou[:, label]).all()
        assert (boundary_f_counts(*single, 2)[:, 1] == together_f[:, label]).all()


def test_figures_over_a_data_set():
    counts = np.array(
        [[[1, 0, 0, 1], [2, 0, 4, 5], [1, 0, 2, 0]], [[2, 0, 1, 0], [2, 0, 0, 0], [2, 0, 0, 0]]]
    )
    assert per_label_ratio(counts.sum(0)).tolist()[::2] == [0.75, 0.25]
    assert (
        per_label_ratio(counts.sum(0))[3] == 0.2
    )  # predicted only: it has its own score, but does not enter the mean
    assert np.isnan(per_label_ratio(counts.sum(0))[1])
    assert mean_ratio(counts.sum(0)) == pytest.approx(0.5)
    assert mean_ratio(counts).shape == (2,)


def test_a_perfect_prediction_is_perfect():
    truth, _ = masks(4)
    guess = np.where(truth == 255, 3, truth)
    assert mean_ratio(boundary_iou_counts(truth, guess, 4)) == 1
    assert mean_ratio(boundary_f_counts(truth, guess, 4)) == 1


@pytest.mark.parametrize("strange", [-7, 10**12, 255])
def test_predictions_under_void_are_ignored(strange):
    truth, guess = masks(5)
    other = np.where(truth == 255, strange, guess)
    for count in (boundary_iou_counts, boundary_f_counts, trimap_confusion):
        assert (count(truth, guess, 4) == count(truth, other, 4)).all()


@pytest.mark.parametrize("count", [boundary_iou_counts, boundary_f_counts])
def test_one_picture_at_a_time(count):
    with pytest.raises(ValueError, match=r"truth: expected one picture \[H, W\], got shape \(1, 2, 2\)"):
        count(np.zeros((1, 2, 2), int), np.zeros((1, 2, 2), int), 2)
