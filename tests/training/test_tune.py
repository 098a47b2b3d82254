# SPDX-License-Identifier: MIT
"""Tuning: the best trial wins, a study resumes where it stopped, each fold is evaluated by the others."""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from crfrnn.training import TuneConfig, UnaryDataset, tune
from crfrnn.training.score import score, total
from toy import LABELS, toy_data

CONFIG = TuneConfig(
    trials=4,
    folds=3,
    ranges={"theta_beta": (2.0, 60.0), "bilateral_weight": (0.5, 10.0)},
    prune=False,
    settings={"iterations": 2, "theta_alpha": 12.0, "bilateral_method": "exact"},
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> UnaryDataset:
    return toy_data(tmp_path_factory.mktemp("toy"))


def test_the_best_trial_is_taken_and_its_score_is_reproducible(data: UnaryDataset) -> None:
    result = tune(data, CONFIG)
    assert len(result.trials) == 4
    assert result.trials[0]["both"] == max(trial["both"] for trial in result.trials)
    again = total(score(result.crf, data, sample) for sample in data)
    assert (again.confusion == result.counts.confusion).all()
    assert again.selection("both") == pytest.approx(result.trials[0]["both"])
    assert result.crf.log_theta_beta.exp().item() == pytest.approx(result.numbers["theta_beta"], rel=1e-5)
    assert result.validation.confusion.sum() == result.counts.confusion.sum()
    assert result.validation.selection("both") <= result.counts.selection("both") + 1e-12
    assert tune(data, CONFIG).numbers == result.numbers


@pytest.mark.slow
@pytest.mark.parametrize("name", ["study.log", "study.db"])
def test_a_study_is_resumed(data: UnaryDataset, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    tune(data, replace(CONFIG, trials=2), study=path)
    counted = []
    result = tune(data, replace(CONFIG, trials=3), study=path, report=lambda *a: counted.append(a[1]))
    assert set(counted) == {2} and len(result.trials) == 3
    with pytest.raises(ValueError, match="study: expected a study with the same metric"):
        tune(data, replace(CONFIG, metric="loss"), study=path)


def test_an_interrupted_search_keeps_its_trials(data: UnaryDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[logging.LogRecord] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", logged.append)
    logging.getLogger("optuna").addHandler(handler)

    def report(what: str, trial: int, *_: object) -> None:
        if trial == 2:
            raise KeyboardInterrupt

    result = tune(data, CONFIG, report=report)
    logging.getLogger("optuna").removeHandler(handler)
    assert result.interrupted and len(result.trials) == 2
    assert not logged  # optuna would show the traceback


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


def foreign(path: Path, kind: str) -> None:
    """A file that is not a study written by this program."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    if kind == "text":
        path.write_text("epoch,loss\n1,0.5\n")
    elif kind == "json":
        path.write_text('{"op_code": 0}\n{"op_code": 4}\n')
    elif kind == "bytes":
        path.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe" * 9)
    elif kind == "other study":
        storage = f"sqlite:///{path}" if path.suffix == ".db" else None
        optuna.create_study(
            study_name="theirs",
            storage=storage or optuna.storages.JournalStorage(JournalFileBackend(str(path))),
        )
    elif kind == "database":
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE notes (text)")
        database.close()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("s.log", kind) for kind in ("text", "json", "bytes", "other study")),
        *(("s.db", kind) for kind in ("text", "bytes", "database", "other study")),
    ],
)
def test_a_foreign_file_given_as_study_is_unchanged(
    data: UnaryDataset, tmp_path: Path, name: str, kind: str
) -> None:
    path = tmp_path / name
    foreign(path, kind)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"^study .*; name a new file$") as caught:
        tune(data, CONFIG, study=path)
    assert path.read_bytes() == before and "\n" not in str(caught.value)


def test_a_truncated_journal_resumes_without_its_last_line(
    data: UnaryDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("sub/s.log")  # in a subfolder, where Optuna's own lock fails
    path.parent.mkdir()
    tune(data, replace(CONFIG, trials=2), study=path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.warns(UserWarning, match="last line was truncated"):
        result = tune(data, replace(CONFIG, trials=3), study=path)
    assert len(result.trials) == 3
    assert path.read_bytes().startswith(whole[: whole[:-9].rfind(b"\n") + 1])
    assert sorted(p.name for p in path.parent.iterdir()) == ["s.log"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["s.log", "s.db"])
def test_a_damaged_study_is_one_worded_error(data: UnaryDataset, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    tune(data, replace(CONFIG, trials=2), study=path)
    whole = path.read_bytes()
    if name == "s.log":
        first, *lines = whole.splitlines(keepends=True)
        damages = [b"".join([first, *lines[:3], b"?" * 9 + b"\n", *lines[3:]]),
                   first + b'{"op_code": 5, "worker_id": "a"}\n']  # fmt: skip
    else:
        damages = [whole[: len(whole) // 2], whole[:4096] + b"?" * (len(whole) - 4096)]
    for damage in damages:
        path.write_bytes(damage)
        with pytest.raises(ValueError, match=r"^study .*; name a new file$") as caught:
            tune(data, replace(CONFIG, trials=3), study=path)
        assert "\n" not in str(caught.value)


def test_a_study_does_not_resume_with_other_data(data: UnaryDataset, tmp_path: Path) -> None:
    tune(data, replace(CONFIG, trials=1), study=tmp_path / "s.log")
    shifted = UnaryDataset(data.pictures, lambda name, size: data[data.ids.index(name)].unary + 1, LABELS)
    with pytest.raises(ValueError, match="study: expected a study with the same data"):
        tune(shifted, replace(CONFIG, trials=2), study=tmp_path / "s.log")
    with pytest.raises(ValueError, match="no such folder"):
        tune(data, CONFIG, study=tmp_path / "no" / "s.log")
