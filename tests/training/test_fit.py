# SPDX-License-Identifier: MIT
"""Fitting: losses against their definitions, and guarantees of the loop."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from crfrnn import CRFRNN
from crfrnn.datasets import folder_pictures
from crfrnn.evaluation import confusion_matrix, mean_iu_of_truth
from crfrnn.training import (
    FitConfig,
    FolderUnaries,
    UnaryDataset,
    cross_fit,
    fit,
    lovasz_softmax,
    split_folds,
)
from crfrnn.training.losses import soft_iou, weighted_cross_entropy
from toy import LABELS, make_pictures, toy_data

# Cross entropy alone: a smooth loss, so its value can be checked directly.
SMALL = FitConfig(
    epochs=3, batch=1, folds=3, set_iou=0, set_iou_trimap=0, cross_entropy=1, boundary=0, rate_weights=0.1
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> UnaryDataset:
    return toy_data(tmp_path_factory.mktemp("toy"))


def start(**options: object) -> CRFRNN:
    usual = {"bilateral_method": "exact", "iterations": 2, "temperature": 1.0}
    return CRFRNN(LABELS, 12.0, 25.0, 2.0, 1.0, 1.0, **{**usual, **options})


def state(crf: CRFRNN) -> dict[str, list[float]]:
    return {name: value.flatten().tolist() for name, value in crf.state_dict().items()}


def test_lovasz_of_hard_predictions_is_one_minus_iu() -> None:
    truth, guess = torch.randint(3, (2, 9, 7), generator=torch.Generator().manual_seed(3))
    truth[0, :3] = 255
    logits = 200.0 * torch.nn.functional.one_hot(guess, 3).permute(2, 0, 1).float()
    valid = truth != 255
    ius = [
        float(((truth == c) & (guess == c))[valid].sum() / ((truth == c) | (guess == c))[valid].sum())
        for c in range(3)
    ]
    assert float(lovasz_softmax(logits, truth)) == pytest.approx(1 - np.mean(ius), abs=1e-6)


def test_lovasz_gradient() -> None:
    truth = torch.tensor([[0, 1, 255], [2, 1, 0]])
    logits = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: lovasz_softmax(x, truth), logits)
    assert float(lovasz_softmax(logits.detach(), torch.full((2, 3), 255))) == 0


def test_soft_iou_of_hard_predictions_is_that_of_the_confusion_matrix() -> None:
    truth, guess = torch.randint(3, (2, 2, 9, 7), generator=torch.Generator().manual_seed(3))
    truth[0, :3], truth[truth == 2] = 255, 1  # the third label is predicted but absent from the truth
    logits = 200.0 * torch.nn.functional.one_hot(guess, 3).permute(0, 3, 1, 2).float()
    matrix = confusion_matrix(truth.numpy(), guess.numpy(), 3)
    assert float(soft_iou(logits, truth)) == pytest.approx(1 - float(mean_iu_of_truth(matrix)), abs=1e-6)
    rough = torch.randn(2, 3, 9, 7, dtype=torch.float64)[:, :, 2:5, :2].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: soft_iou(x, truth[:, 2:5, :2]), rough)
    assert float(soft_iou(logits, torch.full_like(truth, 255))) == 0


def test_weighted_cross_entropy_is_the_mean_over_what_counts() -> None:
    logits, truth = torch.randn(3, 4, 5), torch.randint(3, (4, 5))
    plain = torch.nn.functional.cross_entropy(logits[None], truth[None])
    assert weighted_cross_entropy(logits, truth) == pytest.approx(float(plain), rel=1e-6)
    weights = torch.zeros(4, 5)
    weights[1, 2] = 7.0
    one = -logits.log_softmax(0)[truth[1, 2], 1, 2]
    assert weighted_cross_entropy(logits, truth, weights) == pytest.approx(float(one), rel=1e-5)


def test_folds_are_a_partition_and_follow_the_seed() -> None:
    ids = [f"p{k}" for k in range(11)]
    parts = split_folds(ids, 4)
    assert sorted(name for part in parts for name in part) == sorted(ids)
    assert {len(p) for p in parts} == {2, 3}
    assert parts == split_folds(list(reversed(ids)), 4) != split_folds(ids, 4, seed=1)
    with pytest.raises(ValueError, match="folds"):
        split_folds(ids[:1], 2)


@pytest.mark.slow
def test_fit_improves_the_held_out_loss_and_is_reproducible(data: UnaryDataset, tmp_path: Path) -> None:
    config = replace(SMALL, select="loss")
    first = fit(data, start(), config, log=tmp_path / "log.csv")
    assert first.validation.figures()["loss"] < 0.9 * first.start.figures()["loss"]
    assert state(first.crf) == state(fit(data, start(), config).crf)
    with (tmp_path / "log.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert [int(line["epoch"]) for line in lines] == [0, 1, 2, 3]
    best = min(lines, key=lambda line: float(line["validation_loss"]))
    assert int(best["epoch"]) == first.best_epoch


@pytest.mark.slow
def test_the_default_losses_improve_the_held_out_iu(data: UnaryDataset) -> None:
    config = FitConfig(epochs=3, batch=1, folds=3, rate_weights=0.1)
    result = fit(data, start(), config)
    assert result.validation.figures()["mean_iu"] > result.start.figures()["mean_iu"] + 0.05
    matrices = fit(data, start(label_weights="matrix"), replace(config, epochs=1, share_foreground=True)).crf
    groups = matrices.bilateral_weights[1:, 1:].flatten().tolist()
    assert len(set(groups)) == 2  # diagonal and off-diagonal


def test_start_is_not_changed_and_zero_epochs_return_it(data: UnaryDataset) -> None:
    crf = start()
    before = state(crf)
    result = fit(data, crf, replace(SMALL, epochs=0))
    assert state(crf) == before == state(result.crf)
    assert result.best_epoch == 0 and not result.crf.training


def test_rates_that_diverge_return_the_start(data: UnaryDataset) -> None:
    wild = replace(
        SMALL,
        epochs=2,
        rate_weights=0.0,
        rate_theta=0.0,
        rate_temperature=4.0,
        rate_compatibility=30.0,
        select="loss",
    )
    crf = start()
    result = fit(data, crf, wild)
    assert result.best_epoch == 0
    assert state(result.crf) == state(crf)


def test_tied_and_frozen_parameters_stay_so(data: UnaryDataset) -> None:
    config = replace(
        SMALL,
        epochs=1,
        share_labels=True,
        compatibility="symmetric",
        select="loss",
        freeze=("log_theta_gamma",),
        balance=0.5,
        boundary=1.0,
        anchor=0.01,
        crop=16,
    )
    crf = fit(data, start(), config).crf
    assert len(set(crf.spatial_weights.tolist())) == 1 and crf.spatial_weights[0].item() != 1.0
    assert torch.equal(crf.compatibility, crf.compatibility.T)
    assert not torch.equal(crf.compatibility, -torch.eye(LABELS))
    assert torch.equal(crf.log_theta_gamma, start().log_theta_gamma)
    crf = fit(data, start(), replace(SMALL, epochs=1, compatibility="diagonal", select="loss")).crf
    assert torch.equal(crf.compatibility, crf.compatibility.diag().diag())


def test_control_c_keeps_the_best_so_far(data: UnaryDataset) -> None:
    def report(what: str, epoch: int, *_: object) -> None:
        if (what, epoch) == ("fit", 2):
            raise KeyboardInterrupt

    stopped = fit(data, start(), replace(SMALL, select="loss"), report=report)
    whole = fit(data, start(), replace(SMALL, select="loss"))
    assert stopped.interrupted and stopped.best_epoch == 1
    assert [line["epoch"] for line in stopped.history] == [0, 1]
    assert stopped.history[1]["validation_loss"] == whole.history[1]["validation_loss"]


def test_cross_fit_evaluates_every_picture_once(data: UnaryDataset, tmp_path: Path) -> None:
    mean, parts = cross_fit(data, start(), replace(SMALL, epochs=1), log=tmp_path / "a.csv")
    pixels = sum(int((data.truth(k) != 255).sum()) for k in range(len(data)))
    assert int(mean.validation.confusion.sum()) == pixels and mean.validation.pictures == len(data)
    expected = torch.stack([p.crf.spatial_weights for p in parts]).mean(0)
    assert torch.allclose(mean.crf.spatial_weights, expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a-0.csv", "a-1.csv", "a-2.csv"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"epochs": -1}, "epochs"),
        ({"batch": 0}, "batch"),
        ({"fold": 3}, "fold"),
        ({"select": "best"}, "select"),
        ({"rate_theta": float("nan")}, "rate_theta"),
        ({"cross_entropy": 0.0}, "lovasz"),
        ({"freeze": ("theta",)}, "freeze"),
        ({"compatibility": "potts"}, "compatibility"),
        ({"crop": 2}, "crop"),
        ({"crop": 16, "set_iou": 1.0}, "set_iou"),
        (
            {"rate_weights": 0.0, "rate_theta": 0.0, "rate_compatibility": 0.0, "rate_temperature": 0.0},
            "expected something to learn",
        ),
    ],
)
def test_bad_configurations_are_named(data: UnaryDataset, change: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        fit(data, start(), replace(SMALL, **change))


def test_sizes_and_labels_that_do_not_fit_are_named(data: UnaryDataset, tmp_path: Path) -> None:
    root = make_pictures(tmp_path, pictures=2)
    pictures = folder_pictures(root)
    source = FolderUnaries(root / "unaries", {"kind": "logits", "axes": "lhw"})
    with pytest.raises(ValueError, match="unary: expected"):
        UnaryDataset(pictures, source, 4)[0]
    with pytest.raises(ValueError, match=r"mask .*p0.*: expected labels 0\.\.1 or 255"):
        UnaryDataset(pictures, source, 2)[0]
    (root / "unaries" / "p1.npy").unlink()
    with pytest.raises(ValueError, match=r"unary .*p1"):
        UnaryDataset(pictures, source, 3)[1]


def test_the_cache_does_not_change_what_is_read(data: UnaryDataset) -> None:
    cold = UnaryDataset(
        data.pictures,
        FolderUnaries(
            Path(data.pictures[0].image_path).parents[1] / "unaries", {"kind": "logits", "axes": "lhw"}
        ),
        LABELS,
        cache_bytes=0,
    )
    for one, two in zip(data, cold, strict=True):
        assert one.id == two.id
        assert all(torch.equal(a, b) for a, b in zip(one[1:], two[1:], strict=True))
