# SPDX-License-Identifier: MIT
"""The CRF alone on given unaries: rows against `evaluate`, training data, resuming, rejections."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from command_line import names, run
from crfrnn import CRFRNN
from crfrnn.commands import common
from crfrnn.datasets import folder_pictures
from crfrnn.experiments import UnaryExperiment, unaries, unary_ablations
from crfrnn.io import read_label_png
from crfrnn.training import (
    FitConfig,
    FolderUnaries,
    TuneConfig,
    UnaryDataset,
    fit,
    load_parameters,
    split_folds,
)
from crfrnn.training.losses import weighted_cross_entropy
from toy import LABELS, make_pictures

CONFIG = FitConfig(epochs=1, folds=2)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("toy")
    make_pictures(home / "val", 3, seed=2)
    return make_pictures(home / "train", 9, seed=1).parent


def source(root: Path, part: str) -> list[object]:
    return ["--unaries", root / part / "unaries", "--layout", "lhw", "--labels", LABELS]


def dataset(root: Path, part: str) -> UnaryDataset:
    options = {"kind": "logits", "axes": "lhw", "num_labels": LABELS}
    pictures = folder_pictures(root / part, num_labels=LABELS)
    return UnaryDataset(pictures, FolderUnaries(root / part / "unaries", options), LABELS)


def lines(path: Path) -> dict[str, dict[str, str]]:
    with path.open() as stream:
        return {line["method"]: line for line in csv.DictReader(stream)}


@pytest.mark.slow
def test_the_rows_have_the_scores_of_evaluate_and_work_is_not_repeated(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = [root / "train", *source(root, "train"), "--val", root / "val", "--val-unaries",
             root / "val" / "unaries", "--epochs", 1, "--trials", 4, "-T", 2, "-o", out]  # fmt: skip
    code, said, error = run("experiment", "unaries", *words)
    assert code == 0, error
    rows = ["plain", "default", "post-processing", "crf-rnn", "potts"]
    assert sorted(names(out / "rows")) == sorted(rows)

    files = [f"{row}={out / 'rows' / row / 'crf.safetensors'}" for row in rows[1:]]
    methods = [word for method in ("plain", *files) for word in ("-m", method)]
    code, _, error = run(
        "evaluate", root / "val", *source(root, "val"), *methods, "-o", tmp_path / "evaluated"
    )
    assert code == 0, error
    ours, theirs = (lines(p) for p in (out / "unaries_scores.csv", tmp_path / "evaluated" / "scores.csv"))
    assert list(ours) == rows and ours == theirs

    numbers = json.loads((out / "tuned.json").read_text())["numbers"]
    tuned, learned, potts = (load_parameters(out / "rows" / row / "crf.safetensors").crf for row in rows[2:])
    assert tuned.log_theta_beta.exp().item() == pytest.approx(numbers["theta_beta"], rel=1e-6)
    assert torch.equal(potts.compatibility, -torch.eye(LABELS))
    text = (out / "unaries.md").read_text()
    assert "control: learned, Potts compatibility fixed" in text and "Not finished" not in text
    figures = {f"unaries_{name}.png" for name in ("best", "worst", "mu", "trimap")}
    assert figures <= set(names(out)) and learned.num_labels == LABELS

    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.parts[-2] != "out" and p.is_file()}
    code, said, _ = run("experiment", "unaries", *words)
    assert code == 0 and "fit" not in said and "judge" not in said and "cross-validate" not in said
    assert stamps == {p: p.stat().st_mtime_ns for p in stamps}
    code, _, error = run("experiment", "unaries", *words, "--epochs", 2)
    assert code == 2 and "same recipe and settings" in error


def test_a_signal_in_a_fit_keeps_finished_rows(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    words = [root / "train", *source(root, "train"), "--judge-on", "held-out", "--epochs", 1, "--trials", 0,
             "-T", 1, "--row", "plain", "--row", "crf-rnn", "-o", out]  # fmt: skip

    @contextmanager
    def signalling(log: Path | None = None) -> Iterator[Callable[..., None]]:
        def steps(what: str, done: int, total: int) -> None:
            if what.startswith("crf-rnn: fit") and done == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        yield steps

    with monkeypatch.context() as patched:
        patched.setattr(common, "task_bars", signalling)
        code, said, _ = run("experiment", "unaries", *words)
    assert code == 143 and f"Interrupted (SIGTERM); finished rows are in {out / 'rows'}" in said
    assert (out / "rows" / "plain" / "row.json").is_file() and not (
        out / "runs" / "crf-rnn" / "run.json"
    ).exists()
    code, said, error = run("experiment", "unaries", *words)
    assert code == 0 and "judge plain" not in said and "fit crf-rnn" in said, error


def test_a_fold_of_train_and_what_is_refused(root: Path, tmp_path: Path) -> None:
    words = [root / "train", *source(root, "train"), "--epochs", 1, "--trials", 0, "--long-side", 16,
             "--train-iterations", 1, "--test-iterations", "1,3"]  # fmt: skip
    out, fold = tmp_path / "out", ["--judge-on", "held-out", "--hold-out", 0.34]
    rows = ["plain", "train1-test3", "cross-entropy", "robust"]
    some = [word for row in rows for word in ("--row", row)]
    code, _, error = run(
        "experiment", "unary-ablations", *words, *fold, *some, "-o", out, "--val-pictures", 2
    )
    assert code == 0, error
    ids = folder_pictures(root / "train", num_labels=LABELS).ids
    for row in rows:
        held, found = {f"{name}.png" for name in split_folds(ids, 3)[0]}, names(out / "rows" / row / "labels")
        assert len(held) == 3 and len(found) == 2 and set(found) <= held
        labels = read_label_png(out / "rows" / row / "labels" / found[0])
        assert max(labels.shape) == 16
    with (out / "unary-ablations_differences.csv").open() as stream:
        pairs = {(line["method"], line["minus"]) for line in csv.DictReader(stream)}
    assert ("robust", "cross-entropy") in pairs  # the only difference
    refusals: list[tuple[list[object], str]] = [
        (["--row", "nonsense", *fold], "train1-test3"),
        (["--judge-on", "test"], "held-out"),
        (["--judge-on", "held-out", "--hold-out", 0.7], "0..0.5"),
        ([], "not in the training data"),  # train and val are one folder
    ]
    for strange, said in refusals:
        code, _, error = run("experiment", "unary-ablations", *words, *strange, "-o", tmp_path / "no")
        assert code == 2 and said in error
    assert not (tmp_path / "no" / "rows").exists()


def test_fits_do_not_read_the_evaluated_pictures(root: Path, tmp_path: Path) -> None:
    whole, read = dataset(root, "train"), list[str]()

    def noted(name: str, size: tuple[int, int]) -> Tensor:
        read.append(name)
        return torch.from_numpy(np.load(root / "train" / "unaries" / f"{name}.npy"))

    data = UnaryDataset(whole.pictures, noted, LABELS, cache_bytes=0)
    held = split_folds(data.ids, 2)[0]
    plan = unary_ablations(CONFIG, 2, (2,), (2, 3)).only(["cross-entropy", "robust", "train2-test3"])
    work = UnaryExperiment(
        data.select(i for i in data.ids if i not in held), data.select(held), tmp_path / "out",
        tuning=TuneConfig(trials=2, folds=2), crf={"iterations": 2},
        say=lambda line: read.clear() if line.startswith(("fit", "cross")) else checked.append(set(read)),
    )  # fmt: skip
    checked: list[set[str]] = []
    work.run(plan)
    judged_after = [names for names in checked if names]
    assert len(judged_after) == 3 and not any(names & set(held) for names in judged_after)

    row = tmp_path / "out" / "rows" / "train2-test3"
    crf = load_parameters(tmp_path / "out" / "runs" / "crf-rnn" / "crf.safetensors").crf
    sample = data.select(held[:1])[0]
    with torch.no_grad():
        wanted = crf(sample.unary[None], sample.image[None], iterations=3)[0].argmax(0).numpy()
    assert np.array_equal(read_label_png(row / "labels" / f"{held[0]}.png"), wanted)
    assert sorted(names(row / "labels")) == sorted(f"{name}.png" for name in held)


def test_ablations_differ_from_the_base_in_one_thing() -> None:
    plan = unary_ablations(CONFIG, 5, (1, 5), (5, 10))
    base = asdict(CONFIG)
    changed = {
        name: {key for key, value in asdict(work.how).items() if value != base[key]} | set(work.crf)
        for name, work in plan.run_of.items()
    }
    loss = {"set_iou", "set_iou_trimap", "cross_entropy"}
    assert changed == {
        "crf-rnn": set(), "t1": {"iterations"}, "potts": {"compatibility"}, "relu": {"activation"},
        "shared-weights": {"share_labels"}, "matrix-weights": {"label_weights"},
        "fixed-bandwidths": {"rate_theta"}, "cross-entropy": loss, "robust": {*loss, "robustness"},
    }  # fmt: skip
    rows = {row.name: row for row in plan.rows}
    assert rows["robust"].against == "cross-entropy"
    grid = {(row.run, row.iterations) for row in plan.rows if row.iterations}
    assert grid == {("t1", 5), ("t1", 10), ("crf-rnn", 10)}  # T = 5 twice is the base itself
    assert [row.name for row in unaries(CONFIG).rows][:4] == [
        "plain",
        "default",
        "post-processing",
        "crf-rnn",
    ]
    with pytest.raises(ValueError, match="T ≥ 1"):
        unary_ablations(CONFIG, 5, (), (5,))


def test_the_robust_loss_of_a_fit() -> None:
    logits, truth = torch.randn(3, 4, 5, dtype=torch.float64), torch.randint(3, (4, 5))
    weights = torch.rand(4, 5, dtype=torch.float64)
    truth[0, 0] = 255
    likely = logits.softmax(0).gather(0, truth.clamp(max=2)[None])[0]
    each = -(likely + 0.05).log() * weights
    each[0, 0] = weights[0, 0] = 0
    found = weighted_cross_entropy(logits, truth, weights, 0.05)
    assert found.item() == pytest.approx((each.sum() / weights.sum()).item(), rel=1e-9)
    with pytest.raises(ValueError, match="robustness"):
        replace(CONFIG, robustness=-1.0).check(CRFRNN(LABELS))


def test_a_fit_that_keeps_its_last_epoch(root: Path) -> None:
    data, start = dataset(root, "train"), CRFRNN(LABELS, iterations=2)
    wild = replace(CONFIG, epochs=2, rate_weights=300.0, cosine=False)  # far too high
    best, last = (fit(data, start, replace(wild, select=select)) for select in ("loss", "last"))
    assert best.best_epoch < 2
    assert last.best_epoch == 2 and last.history[-1]["train_loss"] == best.history[-1]["train_loss"]
    assert last.validation.figures()["loss"] == last.history[-1]["validation_loss"]
