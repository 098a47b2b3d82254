# SPDX-License-Identifier: MIT
from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
from scipy import stats

from crfrnn.evaluation import bootstrap, mean_iu, paired_bootstrap, pixel_accuracy


def matrices(seed, pictures=40, labels=3, hit=0.8):
    rng = np.random.default_rng(seed)
    chances = np.full((labels, labels), (1 - hit) / (labels - 1)) + np.eye(labels) * (
        hit - (1 - hit) / (labels - 1)
    )
    spread = rng.dirichlet(np.ones(labels) * 2, size=pictures)
    return np.stack(
        [np.stack([rng.multinomial(int(900 * s[l]), chances[l]) for l in range(labels)]) for s in spread]
    )


def mean_of(sums):
    """Summed [value, 1] → mean."""
    return sums[..., 0] / sums[..., 1]


def test_interval_of_a_mean_is_scipys():
    values = np.random.default_rng(0).exponential(size=200)
    found = bootstrap(np.stack([values, np.ones(200)], 1), mean_of, samples=8000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=8000, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(theirs.low, abs=0.01)
    assert found.high == pytest.approx(theirs.high, abs=0.01)


def test_resampling_is_with_whole_pictures():
    counts = matrices(1)
    found = bootstrap(counts, mean_iu, samples=3000, seed=3)
    rng = np.random.default_rng(9)
    slow = [float(mean_iu(counts[rng.integers(0, 40, 40)].sum(0))) for _ in range(3000)]
    assert found.value == float(mean_iu(counts.sum(0)))
    assert found.low == pytest.approx(np.quantile(slow, 0.025), abs=2e-3)
    assert found.high == pytest.approx(np.quantile(slow, 0.975), abs=2e-3)
    assert bootstrap(counts, mean_iu, samples=3000, seed=3) == found
    assert bootstrap(counts, mean_iu, samples=3000, seed=4) != found


def test_portions_do_not_change_the_draw(monkeypatch):
    counts = matrices(2)
    whole = bootstrap(counts, mean_iu, samples=100)
    # In the package the function of this name hides the module.
    module = importlib.import_module("crfrnn.evaluation.bootstrap")
    monkeypatch.setattr(module, "_CHUNK_BYTES", 8 * 40 * 7)
    assert bootstrap(counts, mean_iu, samples=100).value == whole.value
    assert bootstrap(counts, mean_iu, samples=100).low == pytest.approx(whole.low, abs=1e-12)


def test_pairing_finds_differences_that_single_intervals_hide():
    worse = matrices(5)
    better = worse.copy()
    for matrix in better:  # every picture a little better: 2 % of the errors of the first label repaired
        moved = matrix[0, 1] // 50 + 1
        matrix[0, 1] -= moved
        matrix[0, 0] += moved
    single = [bootstrap(counts, pixel_accuracy) for counts in (worse, better)]
    assert single[0].high > single[1].low
    gain = paired_bootstrap(better, worse, pixel_accuracy)
    assert gain.value == pytest.approx(single[1].value - single[0].value)
    assert 0 < gain.low <= gain.value <= gain.high
    assert gain.clear_of_zero
    loss = paired_bootstrap(worse, better, pixel_accuracy)
    assert (loss.low, loss.high) == pytest.approx((-gain.high, -gain.low))
    assert loss.clear_of_zero
    assert not paired_bootstrap(worse, worse, pixel_accuracy).clear_of_zero


def test_level_and_text():
    counts = matrices(6)
    narrow, wide = bootstrap(counts, mean_iu, level=0.5), bootstrap(counts, mean_iu, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert narrow.percent(1).startswith(f"{100 * narrow.value:.1f} [")


def test_odd_but_valid():
    one = bootstrap(matrices(7, pictures=1), mean_iu)
    assert one.low == one.value == one.high
    empty = bootstrap(np.zeros((3, 2, 2), int), mean_iu)
    assert math.isnan(empty.value)
    assert math.isnan(empty.low)


@pytest.mark.parametrize(
    ("counts", "options", "said"),
    [
        (np.zeros((0, 2, 2)), {}, "counts: expected .*at least one picture"),
        (np.zeros(3), {}, "counts: expected"),
        (np.ones((2, 2, 2)), {"samples": 0}, "samples: expected at least 1"),
        (np.ones((2, 2, 2)), {"level": 1.0}, "level: expected"),
    ],
)
def test_mismatched_input_is_named(counts, options, said):
    with pytest.raises(ValueError, match=said):
        bootstrap(counts, mean_iu, **options)
    with pytest.raises(ValueError, match="baseline: expected shape"):
        paired_bootstrap(np.ones((2, 2, 2)), np.ones((3, 2, 2)), mean_iu)
