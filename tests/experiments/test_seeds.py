# SPDX-License-Identifier: MIT
"""The mean over seeds and its interval, against sums by hand; and the command that runs several."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest

from command_line import names, run
from crfrnn.evaluation import METRICS, Evaluation, bootstrap, evaluate, paired_bootstrap
from crfrnn.experiments.seeds import mean, mean_difference
from toy_training import recipe_file

OPTIONS = {"samples": 300, "seed": 3}


def evaluation(seed: int, pictures: int = 6) -> Evaluation:
    """Two random methods; the truth is the same for all seeds."""
    truth, guess = np.random.default_rng(0), np.random.default_rng(seed + 1)
    items = []
    for i in range(pictures):
        labels = truth.integers(0, 3, (9, 9))
        wrong = {m: guess.random((9, 9)) < share for m, share in {"a": 0.5, "b": 0.2}.items()}
        guesses = {m: np.where(w, (labels + 1) % 3, labels) for m, w in wrong.items()}
        items.append(
            (str(i), np.where(np.arange(9) == 4, 255, labels), guesses)
        )  # a void line for the trimap
    return evaluate(items, 3, max_width=5)


@pytest.mark.parametrize("metric", METRICS)
def test_the_mean_is_that_of_the_seeds_figures(metric: str) -> None:
    results = {seed: evaluation(seed) for seed in (0, 4, 7)}
    scores = {m: [r.score(m, metric) for r in results.values()] for m in "ab"}
    found = mean(results, "a", metric, **OPTIONS)
    assert found.value == pytest.approx(np.mean(scores["a"])) and found.low < found.value < found.high
    gain = mean_difference(results, "b", "a", metric, **OPTIONS)
    assert gain.value == pytest.approx(np.mean(scores["b"]) - np.mean(scores["a"]))
    single = [r.difference("b", "a", metric, **OPTIONS) for r in results.values()]
    widths = [s.high - s.low for s in single]
    assert 0 < gain.high - gain.low < max(widths)  # random differences of the networks average out


def test_resampled_runs_widen_the_interval_by_their_spread() -> None:
    """With equal pictures, only the spread of the means of n runs drawn from n remains."""
    runs = np.array([0.0, 1.0, 2.0, 7.0])
    counts = np.repeat(runs[None, :, None], 5, 0)

    def metric(summed: np.ndarray) -> np.ndarray:
        return summed[..., 0] / 5

    kept = bootstrap(counts, metric, runs="kept", samples=50)
    assert (kept.value, kept.low, kept.high) == (2.5, 2.5, 2.5)
    drawn = bootstrap(counts, metric, runs="drawn", samples=4000)
    means = np.sort([np.mean(chosen) for chosen in itertools.product(runs, repeat=4)])
    assert drawn.value == 2.5
    assert (drawn.low, drawn.high) == tuple(np.quantile(means, [0.025, 0.975], method="nearest"))
    gain = paired_bootstrap(counts + 1, counts, metric, runs="drawn", samples=50)
    assert gain.low == pytest.approx(1) and gain.high == pytest.approx(1)  # the same runs for both
    with pytest.raises(ValueError, match=r"counts: expected \[pictures, runs, ...\]"):
        bootstrap(counts[:, :, 0], metric, runs="kept")


@pytest.mark.parametrize("metric", ["mean_iu", "trimap_accuracy", "boundary_f"])
def test_equal_seeds_give_the_interval_of_one(metric: str) -> None:
    one = evaluation(2)
    twice = {0: one, 1: one}
    assert mean(twice, "a", metric, **OPTIONS) == pytest.approx(one.interval("a", metric, **OPTIONS))
    assert mean_difference(twice, "b", "a", metric, **OPTIONS) == pytest.approx(
        one.difference("b", "a", metric, **OPTIONS)
    )


@pytest.mark.slow
def test_several_seeds_from_one_command(tmp_path: Path) -> None:
    path, out = recipe_file(tmp_path), tmp_path / "out"
    words = ["experiment", "table1", "-r", path, "-o", out, "--accelerator", "cpu", "--trials", "0"]
    words += ["--hold-out", "0.5", "-s", "stages.*.epochs=1", "--seeds", "3,8"]
    code, said, _ = run(*words)
    assert code == 0 and "Mean over seeds:" in said
    assert {"seed3", "seed8", "table1_seeds.md", "table1_seeds.csv"} == {*names(out)} - {
        "progress.log"
    }  # slow runs have it
    with (out / "table1_seeds.csv").open() as stream:
        lines = {(x["row"], x["minus"], x["metric"]): x for x in csv.DictReader(stream)}
    for row in ("plain", "end-to-end"):
        line = lines[row, "", "mean_iu"]
        own = []
        for seed in (3, 8):
            with (out / f"seed{seed}" / "table1_scores.csv").open() as stream:
                scores = {x["method"]: float(x["mean_iu"]) for x in csv.DictReader(stream)}
            assert float(line[f"seed_{seed}"]) == pytest.approx(scores[row], abs=1e-4)
            own.append(scores[row])
        assert float(line["mean"]) == pytest.approx(np.mean(own), abs=1e-4)
    for row in ("plain-further", "frozen-crf"):
        assert ("end-to-end", row, "trimap_iu") in lines
    text = (out / "table1_seeds.md").read_text()
    assert "seeds 3, 8" in text and "end-to-end minus frozen-crf" in text
    code, _, error = run(*words, "--judge-on", "held-out")
    assert code == 2 and "each seed holds out other pictures" in error
    code, _, error = run(*words[:-1], "3,x")
    assert code == 2 and "whole numbers of at least 0" in error
