# SPDX-License-Identifier: MIT
"""Tuning: the best trial wins, a study goes on where it stopped, folds are judged by the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from crfrnn.data import PictureSet
from crfrnn.training import FolderUnaries, TuneConfig, UnaryDataset, tune
from crfrnn.training.score import score, total
from toy import LABELS, make_pictures

CONFIG = TuneConfig(
    trials=4,
    folds=3,
    ranges={"theta_beta": (2.0, 60.0), "bilateral_weight": (0.5, 10.0)},
    prune=False,
    settings={"iterations": 2, "theta_alpha": 12.0, "bilateral_method": "exact"},
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> UnaryDataset:
    root = make_pictures(tmp_path_factory.mktemp("toy"))
    unaries = FolderUnaries(root / "unaries", {"kind": "logits", "axes": "lhw"})
    return UnaryDataset(PictureSet.folder(root), unaries, LABELS)


def test_the_best_trial_wins_and_its_figure_is_true(data: UnaryDataset) -> None:
    result = tune(data, CONFIG)
    assert len(result.trials) == 4
    assert result.trials[0]["both"] == max(trial["both"] for trial in result.trials)
    again = total(score(result.crf, data, k) for k in range(len(data)))
    assert (again.confusion == result.counts.confusion).all()
    assert again.selection("both") == pytest.approx(result.trials[0]["both"])
    assert result.crf.log_theta_beta.exp().item() == pytest.approx(result.numbers["theta_beta"], rel=1e-5)
    assert result.validation.confusion.sum() == result.counts.confusion.sum()
    assert result.validation.selection("both") <= result.counts.selection("both") + 1e-12
    assert tune(data, CONFIG).numbers == result.numbers


@pytest.mark.parametrize("name", ["study.log", "study.db"])
def test_a_study_is_resumed(data: UnaryDataset, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    tune(data, replace(CONFIG, trials=2), study=path)
    counted = []
    result = tune(data, replace(CONFIG, trials=3), study=path, report=lambda *a: counted.append(a[1]))
    assert set(counted) == {2} and len(result.trials) == 3
    with pytest.raises(ValueError, match="study: expected a study with the same metric"):
        tune(data, replace(CONFIG, metric="loss"), study=path)


def test_an_interrupted_search_keeps_what_it_has(data: UnaryDataset) -> None:
    def report(what: str, trial: int, *_: object) -> None:
        if trial == 2:
            raise KeyboardInterrupt

    result = tune(data, CONFIG, report=report)
    assert result.interrupted and len(result.trials) == 2


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"trials": 0}, "trials"),
        ({"metric": "iu"}, "metric"),
        ({"ranges": {"theta_beta": (3.0, 2.0)}}, "ranges"),
        ({"ranges": {"theta": (1.0, 2.0)}}, "ranges"),
        ({"folds": 99}, "folds"),
    ],
)
def test_bad_configurations_are_named(data: UnaryDataset, change: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        tune(data, replace(CONFIG, **change))
