# SPDX-License-Identifier: MIT
"""Refiners compared on toy pictures: figures against `evaluate`, search, resuming, refusals, the command."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import crfrnn.experiments.refinement as refinement
from command_line import run
from crfrnn import CRFRNN
from crfrnn.commands.refinement import label_number
from crfrnn.datasets import folder_pictures
from crfrnn.evaluation import Evaluator
from crfrnn.experiments import CoarseLabels, Refinement, RefinementConfig, Source
from crfrnn.experiments.cost import peak_memory
from crfrnn.experiments.refinement import read_result
from crfrnn.experiments.refiners import Scene, refiner
from crfrnn.io.parameters import save_parameters
from toy import LABELS, make_pictures, toy_data

METHODS = ("none", "crfrnn-tuned", "slic", "grabcut")


@pytest.fixture(autouse=True)
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure no memory here, which needs a process per method: `peak_memory` has its own test."""
    monkeypatch.setattr(refinement, "peak_memory", lambda small, large: 1.5)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    home = tmp_path_factory.mktemp("toy")
    return Source(toy_data(home / "train"), toy_data(home / "val"))


def config(**more: object) -> RefinementConfig:
    given = {"methods": METHODS, "trials": 3, "tune_pictures": 3, "focus": 1, **more}
    return RefinementConfig(**given)  # pyright: ignore[reportArgumentType]


def test_files_hold_the_counts_of_evaluate_and_work_is_not_repeated(source: Source, tmp_path: Path) -> None:
    said: list[str] = []
    Refinement({"given": source}, tmp_path / "out", config(), say=said.append).run()
    files = {method: tmp_path / "out" / "given" / f"{method}.npz" for method in METHODS}
    assert said == [f"given: {method}" for method in METHODS] and all(p.is_file() for p in files.values())
    found = {method: read_result(path) for method, path in files.items()}

    evaluator, pair = Evaluator(LABELS), Evaluator(2)
    for sample in source.judged:
        scene = Scene.of(sample.id, sample.image.permute(1, 2, 0).numpy(), sample.unary, 1)
        maps = {m: (refiner(m).labels(scene, found[m].about["numbers"])) for m in METHODS}
        for method, labels in maps.items():
            assert np.array_equal(found[method].maps[sample.id], labels)
        truth = sample.truth.numpy()
        evaluator.update(sample.id, truth, maps)
        pair.update(
            sample.id, np.where(truth == 255, 255, truth == 1), {m: (v == 1) * 1 for m, v in maps.items()}
        )
    for part, result in (("whole", evaluator.compute()), ("focus", pair.compute())):
        for method in METHODS:
            for kind, counts in result.counts[method].items():
                assert np.array_equal(found[method].counts[part][kind], counts), (method, kind)
            assert np.array_equal(found[method].counts[part]["curve"], result.curves[method])

    tuned = found["crfrnn-tuned"].about
    assert tuned["memory"] == 1.5 and tuned["seconds"] > 0 and tuned["pictures"] == 6
    assert sorted(trial["trial"] for trial in tuned["trials"]) == [0, 1, 2]
    assert [trial["figure"] for trial in tuned["trials"]] == sorted(
        (trial["figure"] for trial in tuned["trials"]), reverse=True
    )
    first = next(trial for trial in tuned["trials"] if trial["trial"] == 0)
    assert {name: first[name] for name in refiner("crfrnn-tuned").start} == refiner("crfrnn-tuned").start

    stamps = {path: path.stat().st_mtime_ns for path in files.values()}
    again: list[str] = []
    more = config(methods=(*METHODS, "crfrnn-default"))
    Refinement({"given": source}, tmp_path / "out", more, say=again.append).run()
    assert again == ["given: crfrnn-default"]
    assert stamps == {path: path.stat().st_mtime_ns for path in files.values()}
    with pytest.raises(ValueError, match="was started with another trials"):
        Refinement({"given": source}, tmp_path / "out", config(trials=5))
    other = Source(source.train.select(source.train.ids[1:]), source.judged)
    with pytest.raises(ValueError, match="was started with another train"):
        Refinement({"given": other}, tmp_path / "out", config()).run()


def test_a_stopped_search_resumes(source: Source, tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if what == "crfrnn-tuned: trial 1":
            raise KeyboardInterrupt

    one = config(methods=("none", "crfrnn-tuned"))
    with pytest.raises(KeyboardInterrupt):
        Refinement({"given": source}, tmp_path / "out", one, progress=stop).run()
    home = tmp_path / "out" / "given"
    assert (home / "none.npz").is_file() and not (home / "crfrnn-tuned.npz").exists()
    tried: set[str] = set()
    Refinement({"given": source}, tmp_path / "out", one, progress=lambda what, *_: tried.add(what)).run()
    assert "crfrnn-tuned: trial 0" not in tried and "crfrnn-tuned: judge" in tried
    about = read_result(home / "crfrnn-tuned.npz").about
    assert len(about["trials"]) == 3


def test_the_best_parameters_of_the_search_are_used_after_it(source: Source, tmp_path: Path) -> None:
    """RankSEG after our CRF takes the CRF's searched parameters, a learned CRF starts there or is given."""
    saved = tmp_path / "given.safetensors"
    crf = CRFRNN(LABELS, theta_beta=9.0)
    save_parameters(saved, crf)
    given = Source(source.train, source.judged, saved)
    chosen = config(methods=("crfrnn-rankseg", "crfrnn-learned"), epochs=0)
    Refinement({"given": given, "learned": source}, tmp_path / "out", chosen).run()
    home = tmp_path / "out" / "given"
    assert (home / "crfrnn-tuned.journal").is_file() and not (home / "crfrnn-tuned.npz").exists()
    sample = source.judged[0]
    scene = Scene.of(sample.id, sample.image.permute(1, 2, 0).numpy(), sample.unary, 1)
    wanted = refiner("crfrnn-tuned").labels(scene, {"theta_beta": 9.0})
    assert np.array_equal(read_result(home / "crfrnn-learned.npz").maps[sample.id], wanted)
    Refinement({"learned": source}, tmp_path / "out", config(methods=("crfrnn-tuned",), epochs=0)).run()
    tuned, fitted = (
        read_result(tmp_path / "out" / "learned" / f"crfrnn-{name}.npz").maps for name in ("tuned", "learned")
    )
    assert all(np.array_equal(tuned[name], fitted[name]) for name in tuned)  # 0 epochs: where it starts
    with pytest.raises(ValueError, match="learned: expected a CRF of 3 labels, got 2"):
        save_parameters(saved, CRFRNN(2))
        Refinement({"given": given}, tmp_path / "new", chosen).run()


def test_coarse_labels_are_the_winners_of_blocks() -> None:
    logits = torch.randn(4, 37, 50, generator=torch.Generator().manual_seed(1)) * 3
    logits[3] -= 50
    found = CoarseLabels(lambda name, size: logits)("a", (37, 50)).exp()
    p = logits.softmax(0)
    for top in range(0, 37, 16):
        for left in range(0, 50, 16):
            block = (slice(None), slice(top, top + 16), slice(left, left + 16))
            winner = int(p[block].mean((1, 2)).argmax())
            assert torch.equal(found[block][winner], torch.full_like(found[block][winner], 0.7))
    present = found[:3].amax((1, 2)) > 0.01
    assert found[3].max() < 1e-4
    torch.testing.assert_close(found[:3][present].sum(0), torch.ones(37, 50))


def test_label_numbers_are_refused_by_name() -> None:
    assert label_number("2", (), 3) == 2 and label_number(None, ("a", "person"), 2) == 1
    with pytest.raises(ValueError, match="--focus: expected a number below 3, or one of a, b, c, got 'd'"):
        label_number("d", ("a", "b", "c"), 3)


def _hold(mebibytes: int) -> int:
    return int(np.ones(mebibytes * 2**17)[-1])


def _small() -> int:
    return _hold(1)


def _large() -> int:
    return _hold(200)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux alone forgets peaks")
def test_the_peak_of_a_call_is_measured_above_the_memory_before() -> None:
    assert peak_memory(_small, _large) == pytest.approx(200, abs=10)
    assert peak_memory(_large, _small) < 30


@pytest.mark.slow
def test_the_command_writes_tables_and_pictures(tmp_path: Path) -> None:
    for number, part in enumerate(("train", "val")):
        make_pictures(tmp_path / part, 4, seed=number)
    out = tmp_path / "out"
    words = [tmp_path / "train", "--unaries", tmp_path / "train" / "unaries", "--layout", "lhw", "--labels",
             LABELS, "--val", tmp_path / "val", "--val-unaries", tmp_path / "val" / "unaries", "--trials", 2,
             "--source", "given", "--source", "coarse", "--method", "none", "--method", "crfrnn-tuned",
             "--method", "pamr", "--limit", 3, "-o", out]  # fmt: skip
    code, _, error = run("experiment", "refinement", *words)
    assert code == 0, error
    text = (out / "refinement.md").read_text()
    assert "## Scores: given" in text and "## Scores: coarse" in text and "Minus crfrnn, searched" in text
    with (out / "refinement.csv").open() as stream:
        rows = [
            row for row in csv.DictReader(stream) if row["source"] == "given" and row["labels"] == "whole"
        ]
    ids = folder_pictures(tmp_path / "val").some(3).ids
    maps = {row["method"]: read_result(out / "given" / f"{row['method']}.npz").maps for row in rows}
    evaluator = Evaluator(LABELS)
    for item in folder_pictures(tmp_path / "val").select(ids):
        evaluator.update(item.id, item.mask, {name: found[item.id] for name, found in maps.items()})
    result = evaluator.compute()
    for row in rows:
        for metric in ("mean_iu", "trimap_iu", "boundary_iou", "boundary_f"):
            assert float(row[metric]) == pytest.approx(100 * result.score(row["method"], metric), abs=1e-3)
    with (out / "refinement_differences.csv").open() as stream:
        lines = [line for line in csv.DictReader(stream) if line["source"] == "given"]
    line = next(
        x for x in lines if x["method"] == "pamr" and x["metric"] == "trimap_iu" and x["labels"] == "whole"
    )
    wanted = result.difference("pamr", line["minus"], "trimap_iu")
    assert (line["minus"], float(line["low"])) == ("none", pytest.approx(100 * wanted.low, abs=1e-3))
    assert set(json.loads((out / "refinement.json").read_text())) == {"given", "coarse"}
    assert (out / "given.png").is_file()
    code, said, _ = run("experiment", "refinement", *words, "--report-only")
    assert code == 0 and "given: none" not in said
    code, _, error = run("experiment", "refinement", *words, "--source", "others")
    assert code == 2 and "--source: expected" in error
    code, _, error = run("experiment", "refinement", *words, "--source", "network")
    assert code == 2 and "--checkpoint: expected a network of 3 labels" in error
