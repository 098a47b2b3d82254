# SPDX-License-Identifier: MIT
from __future__ import annotations

import numpy as np
import pytest
import torch

from crfrnn.evaluation import (
    ConfusionMatrix,
    confusion_matrix,
    frequency_weighted_iu,
    iu,
    mean_accuracy,
    mean_iu,
    pixel_accuracy,
)


def masks(seed, labels=5, shape=(9, 11), void=0.2):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, labels, shape)
    guess = np.where(rng.random(shape) < 0.6, truth, rng.integers(0, labels, shape))
    truth[rng.random(shape) < void] = 255
    return truth.astype(np.uint8), guess.astype(np.uint8)


@pytest.mark.parametrize("seed", range(5))
def test_matrix_is_scikit_learns(seed):
    from sklearn import metrics

    truth, guess = masks(seed)
    valid = truth != 255
    theirs = metrics.confusion_matrix(truth[valid], guess[valid], labels=range(5))
    assert (confusion_matrix(truth, guess, 5) == theirs).all()


def test_matrix_and_mean_iu_are_torchmetrics():
    from torchmetrics import classification

    theirs = classification.MulticlassConfusionMatrix(6, ignore_index=255, validate_args=False)
    jaccard = classification.MulticlassJaccardIndex(6, ignore_index=255, average="macro")
    ours = ConfusionMatrix(6)
    for seed in range(4):  # five of the six labels occur: the sixth must not count
        truth, guess = masks(seed)
        ours.update(truth, guess)
        for metric in (theirs, jaccard):
            metric.update(torch.as_tensor(guess).long(), torch.as_tensor(truth).long())
    assert (ours.matrix == theirs.compute().numpy()).all()
    assert ours.compute().mean_iu == pytest.approx(float(jaccard.compute()), abs=1e-6)
    assert ours.per_picture.shape == (4, 6, 6)
    assert (ours.per_picture.sum(0) == ours.matrix).all()


def test_scores_by_definition():
    counts = ConfusionMatrix(7)
    truths, guesses = zip(*(masks(seed) for seed in range(3)), strict=True)
    truths[0][0, 0], guesses[0][0, 0] = 0, 5  # label 5 is only ever predicted, label 6 never
    for truth, guess in zip(truths, guesses, strict=True):
        counts.update(truth, guess)
    t, g = (np.concatenate([x.ravel() for x in xs]).astype(int) for xs in (truths, guesses))
    g, t = g[t != 255], t[t != 255]
    each = [
        np.sum((t == l) & (g == l)) / max(np.sum((t == l) | (g == l)), 1)
        if np.any((t == l) | (g == l))
        else np.nan
        for l in range(7)
    ]
    found = counts.compute()
    np.testing.assert_allclose(found.iu, each)
    assert np.isnan(found.iu[6])
    assert found.iu[5] == 0
    assert found.mean_iu == pytest.approx(np.nanmean(each))
    assert found.pixel_accuracy == pytest.approx(np.mean(t == g))
    assert found.mean_accuracy == pytest.approx(np.mean([np.mean(g[t == l] == l) for l in range(5)]))
    weights = [np.mean(t == l) for l in range(7)]
    assert found.frequency_weighted_iu == pytest.approx(np.nansum(np.multiply(weights, each)))


def test_figures_of_many_matrices_at_once():
    stack = np.stack([confusion_matrix(*masks(seed), 5) for seed in range(6)]).reshape(2, 3, 5, 5)
    for figure in (mean_iu, pixel_accuracy, mean_accuracy, frequency_weighted_iu):
        assert figure(stack).shape == (2, 3)
        assert figure(stack)[1, 2] == pytest.approx(float(figure(stack[1, 2])))
    assert iu(stack).shape == (2, 3, 5)


def test_data_set_mean_iu_is_not_the_mean_over_pictures():
    counts = ConfusionMatrix(2)
    counts.update([[0, 0, 0, 1]], [[0, 0, 0, 0]])
    counts.update([[0, 1, 1, 1]], [[1, 1, 1, 1]])
    singles = [float(mean_iu(matrix)) for matrix in counts.per_picture]
    assert counts.compute().mean_iu == pytest.approx(0.6)
    assert np.mean(singles) == pytest.approx(0.375)


def test_odd_but_valid():
    assert np.isnan(ConfusionMatrix(3).compute().mean_iu)
    assert ConfusionMatrix(3).per_picture.shape == (0, 3, 3)
    assert confusion_matrix(np.zeros((0, 4), int), np.zeros((0, 4), int), 2).sum() == 0
    assert confusion_matrix([[255]], [[200]], 2).sum() == 0  # predictions under void are not checked
    assert confusion_matrix(torch.tensor([[1]]), torch.tensor([[1]], dtype=torch.uint8), 2)[1, 1] == 1
    assert confusion_matrix([[299]], [[0]], 300, void=-1)[299, 0] == 1
    assert np.isnan(pixel_accuracy(np.zeros((2, 2))))


@pytest.mark.parametrize(
    ("truth", "guess", "labels", "error", "said"),
    [
        ([[0.0]], [[0]], 2, TypeError, "truth: expected integer labels, got float64"),
        ([[0]], [[0.5]], 2, TypeError, "prediction: expected integer labels.*argmax"),
        ([[0]], [[0, 1]], 2, ValueError, r"prediction: expected shape \(1, 1\)"),
        ([[2]], [[0]], 2, ValueError, r"truth: expected labels 0\.\.1 or void 255, got 2"),
        ([[0]], [[255]], 2, ValueError, r"prediction: expected labels 0\.\.1 wherever.*got 255"),
        ([[0]], [[-1]], 2, ValueError, "prediction: .*got -1"),
        ([[0]], [[0]], 0, ValueError, "num_labels"),
        ([[0]], [[0]], 300, ValueError, "void: .*use -1"),
    ],
)
def test_mismatched_input_is_named(truth, guess, labels, error, said):
    with pytest.raises(error, match=said):
        confusion_matrix(truth, guess, labels)
