# SPDX-License-Identifier: MIT
"""Experiments on tiny pictures: the plans, resuming, and the report against counts made here."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from crfrnn import CRFRNN
from crfrnn.experiments import NetworkExperiment, Plan, Row, ablations, table1, write_report
from crfrnn.io import read_label_png
from crfrnn.models import Segmenter
from crfrnn.training import load_parameters, save_parameters
from crfrnn.training.recipe import load_recipe
from toy import LABELS
from toy_training import make


def experiment(root: Path, **options: object) -> NetworkExperiment:
    recipe = make(root, 8)
    settings = {"hold_out": 0.5, "trials": 4, "folds": 2, "trainer": {"accelerator": "cpu"}, **options}
    return NetworkExperiment(recipe, root / "out", **settings)


def test_the_controls_get_the_same_updates_of_the_network() -> None:
    plan = table1(load_recipe("cpu-small"))
    runs = plan.run_of
    assert [row.name for row in plan.rows[:4]] == ["plain", "default", "post-processing", "end-to-end"]
    crf, *joint = runs["end-to-end"].how.stages
    assert crf.learn == ("crf",) and [stage.name for stage in joint] == ["joint", "last"]
    for name, through in (("plain-further", False), ("frozen-crf", True)):
        for control, stage in zip(runs[name].how.stages, joint, strict=True):
            assert set(control.learn) == {"network", "head"} and control.crf == through
            assert (control.epochs, control.batch, control.rates, control.data) == (
                stage.epochs, stage.batch, stage.rates, stage.data,
            )  # fmt: skip
    assert {run.start for run in plan.runs} == {None, "plain"}


def test_ablations_differ_from_the_base_in_one_thing() -> None:
    recipe = load_recipe("cpu-small", ["crf.iterations=5", "stages.*.compatibility=free"])
    plan = ablations(recipe, (1, 5), (5, 10))
    base = plan.run_of["end-to-end"].how.stages
    other = {name: run.how.stages for name, run in plan.run_of.items()}
    assert [s.compatibility for s in other["potts"]] == ["fixed"] * 3
    assert [s.share_labels for s in other["shared-weights"]] == [True] * 3
    assert [s.rates.crf_theta for s in other["fixed-bandwidths"]] == [0] * 3 and base[0].rates.crf_theta > 0
    assert [s.robustness for s in other["robust"]] == [0.01] * 3
    assert other["relu"] == other["t1"] == base
    assert plan.run_of["relu"].crf == {"activation": "relu"} and plan.run_of["t1"].crf == {"iterations": 1}
    grid = {(row.run, row.iterations) for row in plan.rows if row.iterations}
    assert grid == {("t1", 5), ("t1", 10), ("end-to-end", 5), ("end-to-end", 10)}
    kept = ablations(load_recipe("cpu-small"), (1,), (10,)).run_of  # which keeps the compatibility
    assert "potts" not in kept and kept["end-to-end"].how.stages[0].compatibility == "fixed"
    assert [s.compatibility for s in kept["learned-compatibility"].how.stages] == ["free"] * 3
    with pytest.raises(ValueError, match="T ≥ 1"):
        ablations(recipe, (0,), (5,))
    with pytest.raises(ValueError, match=r"stages with crf: false and then"):
        table1(recipe.changed(stages=recipe.stages[2:]))


@pytest.mark.slow
def test_table1_from_data_to_report(tmp_path: Path) -> None:
    work = experiment(tmp_path)
    plan = table1(work.recipe)
    held = set(work.held_out.ids)
    assert len(held) == 4 and not held & set(work.sets.train["train"].ids)
    work.run(plan)
    out = tmp_path / "out"

    # The frozen CRF is the cross-validated one; end to end started from it and changed.
    numbers = json.loads((out / "tuned.json").read_text())["numbers"]
    frozen = load_parameters(out / "rows" / "frozen-crf" / "crf.safetensors").crf
    post = load_parameters(out / "rows" / "post-processing" / "crf.safetensors").crf
    for name, value in post.state_dict().items():
        assert torch.equal(value, frozen.state_dict()[name]), name
    assert post.log_theta_alpha.exp().item() == pytest.approx(numbers["theta_alpha"], rel=1e-6)
    joint = load_parameters(out / "rows" / "end-to-end" / "crf.safetensors").crf
    assert not torch.equal(joint.compatibility, post.compatibility)
    assert not (out / "rows" / "plain" / "crf.safetensors").exists()
    default = load_parameters(out / "rows" / "default" / "crf.safetensors").crf
    assert torch.equal(default.log_theta_alpha, CRFRNN(LABELS).log_theta_alpha)

    # The CRF learned end to end, applied to the plain network.
    moved = load_parameters(out / "rows" / "moved-crf" / "crf.safetensors").crf
    assert torch.equal(moved.compatibility, joint.compatibility)
    mixed = Segmenter(Segmenter.from_pretrained(out / "runs" / "plain").network, moved).eval()
    item = work.judged[0]
    with torch.no_grad():
        logits = mixed(torch.from_numpy(item.image).permute(2, 0, 1)[None])
    kept = read_label_png(out / "rows" / "moved-crf" / "labels" / f"{item.id}.png")
    assert np.array_equal(kept, logits[0].argmax(0).numpy())

    # A row's label maps are its segmenter's, and its score is the mean IU of their counts.
    segmenter = Segmenter.from_pretrained(out / "runs" / "end-to-end")
    counts = np.zeros((LABELS, LABELS))
    for item in work.judged:
        labels = read_label_png(out / "rows" / "end-to-end" / "labels" / f"{item.id}.png")
        with torch.no_grad():
            logits = segmenter(torch.from_numpy(item.image).permute(2, 0, 1)[None])
        assert np.array_equal(labels, logits[0].argmax(0).numpy())
        for t, p in zip(item.mask.flat, labels.flat, strict=True):
            if t != 255:
                counts[t, p] += 1
    hits = counts.diagonal()
    by_hand = np.mean(hits / (counts.sum(0) + counts.sum(1) - hits))
    about = json.loads((out / "rows" / "end-to-end" / "row.json").read_text())
    assert about["scores"]["mean_iu"] == pytest.approx(by_hand) and about["pictures"] == 2

    path = write_report(plan, out, work.judged, LABELS, command="crfrnn experiment table1", samples=50)
    text = path.read_text()
    assert "control: end to end, CRF parameters frozen" in text and f"{100 * by_hand:.2f} [" in text
    with (out / "table1_labels.csv").open() as stream:
        labels_csv = {line["method"]: line for line in csv.DictReader(stream)}
    assert float(labels_csv["end-to-end"]["mean"]) == pytest.approx(100 * by_hand, abs=0.006)
    with (out / "table1_differences.csv").open() as stream:
        pairs = {(line["method"], line["minus"]) for line in csv.DictReader(stream)}
    assert {("end-to-end", "plain"), ("end-to-end", "plain-further"), ("end-to-end", "frozen-crf")} <= pairs
    assert len((out / "table1_trimap.csv").read_text().splitlines()) == 41
    for name in ("mu", "trimap", "best", "worst"):
        with Image.open(out / f"table1_{name}.png") as picture:
            assert min(picture.size) > 60

    # Everything is finished: nothing is repeated, and another recipe is rejected.
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.suffix in (".json", ".safetensors")}
    again = experiment(tmp_path)
    again.run(plan)
    assert stamps == {p: p.stat().st_mtime_ns for p in stamps}
    with pytest.raises(ValueError, match="same recipe and settings"):
        experiment(tmp_path, trials=5)


def test_an_interrupted_experiment_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = experiment(tmp_path, trials=0)
    plan = table1(work.recipe)
    work._judge(plan, plan.rows[0])
    (tmp_path / "out" / "rows" / "plain" / "row.json").unlink()  # partly evaluated, as after a power cut
    again = experiment(tmp_path, trials=0)
    again.run(Plan("short", plan.runs, plan.rows[:2], "plain", "end-to-end"))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.warns(UserWarning, match=r"not drawn: .*'\.\[plots\]'"):
        path = write_report(plan, tmp_path / "out", again.judged, LABELS, samples=10)
    assert "_trimap.png" not in path.read_text()
    assert "Not finished: post-processing, end-to-end, plain-further," in path.read_text()


@pytest.mark.slow
def test_rows_with_other_numbers_of_iterations(tmp_path: Path) -> None:
    work = experiment(tmp_path, trials=0)
    base = ablations(work.recipe, (2,), (1, 9))
    rows = tuple(row for row in base.rows if row.iterations)
    plan = Plan("t", base.runs, rows, rows[0].name, rows[1].name)
    work.run(plan)
    segmenter = Segmenter.from_pretrained(tmp_path / "out" / "runs" / "end-to-end")
    item = work.judged[0]
    image = torch.from_numpy(item.image).permute(2, 0, 1)[None]
    for row in rows:
        assert isinstance(row, Row)
        with torch.no_grad():
            wanted = segmenter(image, iterations=row.iterations)[0].argmax(0).numpy()
        found = read_label_png(tmp_path / "out" / "rows" / row.name / "labels" / f"{item.id}.png")
        assert np.array_equal(found, wanted)


def test_trainings_may_start_from_a_learned_crf(tmp_path: Path) -> None:
    given = CRFRNN(LABELS, iterations=2, label_weights="matrix")
    torch.nn.init.normal_(given.compatibility)
    save_parameters(tmp_path / "crf.safetensors", given)
    stages = [{"name": "plain", "crf": False, "learn": ["head"], "epochs": 0}, {"name": "joint", "epochs": 1}]
    recipe = make(tmp_path, 8, stages=stages, crf={"parameters": str(tmp_path / "crf.safetensors")})
    work = NetworkExperiment(recipe, tmp_path / "out", hold_out=0.5, trials=0, trainer={"accelerator": "cpu"})
    plan = table1(recipe)
    work.run(plan.only(["frozen-crf", "post-processing"]))
    frozen = load_parameters(tmp_path / "out" / "rows" / "frozen-crf" / "crf.safetensors").crf
    assert all(torch.equal(value, frozen.state_dict()[name]) for name, value in given.state_dict().items())
    post = load_parameters(tmp_path / "out" / "rows" / "post-processing" / "crf.safetensors").crf
    assert torch.equal(post.compatibility, CRFRNN(LABELS).compatibility)


def test_val_is_not_read_with_held_out_evaluation(tmp_path: Path) -> None:
    started = make(tmp_path, 8, stages=[{"name": "plain", "crf": False, "learn": ["head"], "epochs": 0},
                                        {"name": "joint"}])  # fmt: skip
    options = {"hold_out": 0.5, "judge_on": "held-out", "tune_pictures": 3}
    unlearned = NetworkExperiment(started, tmp_path / "start", **options)
    assert set(unlearned.tuned_on.ids) <= set(unlearned.sets.train["train"].ids)
    assert len(unlearned.tuned_on) == 3 and unlearned.judged.ids == unlearned.held_out.ids
    record = tmp_path / "start" / "experiment.json"  # as before a key was added
    about = json.loads(record.read_text())
    for stage in about["recipe"]["stages"]:
        del stage["second_momentum"]
    record.write_text(json.dumps({**about, "recipe": yaml.safe_dump(about["recipe"])}))
    NetworkExperiment(started, tmp_path / "start", **options)
    with pytest.raises(ValueError, match="started with another hold_out"):
        NetworkExperiment(started, tmp_path / "start", **{**options, "hold_out": 0.25})
    work = experiment(tmp_path, judge_on="held-out", tune_pictures=2)
    assert set(work.tuned_on.ids) <= set(work.held_out.ids)
    held, tuned = work.held_out.ids, (work.held_out.ids[0], work.held_out.ids[2])  # two, evenly
    assert set(work.judged.ids) == set(held) - set(tuned) and len(work.judged) == 2
    assert not set(work.judged.ids) & set(work.sets.train["train"].ids)
    with pytest.raises(ValueError, match="lower tune_pictures"):
        experiment(tmp_path / "all", judge_on="held-out", tune_pictures=4)
    with pytest.raises(ValueError, match="same recipe and settings"):
        experiment(tmp_path, tune_pictures=2)
