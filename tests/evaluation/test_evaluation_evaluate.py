# SPDX-License-Identifier: MIT
from __future__ import annotations

import csv
import os
import warnings

import numpy as np
import pytest
from scipy import ndimage

from crfrnn.evaluation import (
    METRICS,
    Evaluator,
    boundary_f_counts,
    boundary_iou_counts,
    confusion_matrix,
    evaluate,
    iu,
    mean_iu_of_truth,
    mean_ratio,
    pixel_accuracy,
    trimap_confusion,
)


def pictures(count=6, labels=3):
    for number in range(count):
        rng = np.random.default_rng(number)
        fields = ndimage.gaussian_filter(rng.normal(size=(labels, 24, 31)), (0, 3, 3))
        truth = fields.argmax(0)
        border = ndimage.maximum_filter(truth, 3) != ndimage.minimum_filter(truth, 3)
        noise = ndimage.gaussian_filter(rng.normal(size=fields.shape), (0, 1, 1))
        guesses = {"plain": (fields + noise * 0.3).argmax(0), "refined": (fields + noise * 0.05).argmax(0)}
        yield f"p{number}", np.where(border, 255, truth), guesses


@pytest.fixture(scope="module")
def result():
    return evaluate(pictures(), 3, class_names=("sky", "sea", "a|b"), trimap_width=3, max_width=7)


def test_figures_are_those_of_the_parts(result):
    assert result.methods == ("plain", "refined")
    assert result.ids == tuple(f"p{i}" for i in range(6))
    for method in result.methods:
        args = [(truth, guesses[method], 3) for _, truth, guesses in pictures()]
        whole = np.sum([confusion_matrix(*a) for a in args], 0)
        bands = np.sum([trimap_confusion(*a, 7) for a in args], 0)
        assert result.score(method, "mean_iu") == float(mean_iu_of_truth(whole))
        assert result.score(method, "pixel_accuracy") == float(pixel_accuracy(whole))
        assert result.score(method, "trimap_iu") == float(mean_iu_of_truth(bands[2]))
        assert result.score(method, "trimap_accuracy") == float(pixel_accuracy(bands[2]))
        assert result.score(method, "boundary_iou") == float(
            mean_ratio(sum(boundary_iou_counts(*a) for a in args))
        )
        assert result.score(method, "boundary_f") == float(
            mean_ratio(sum(boundary_f_counts(*a) for a in args))
        )
        assert (result.trimap_curve(method) == mean_iu_of_truth(bands)).all()
        assert (result.per_label_iu(method) == iu(whole)).all()


def test_rows_intervals_and_differences(result):
    rows = result.rows()
    assert [row["method"] for row in rows] == ["plain", "refined"]
    assert set(METRICS) | {"method", "iu sky", "iu sea", "iu a|b"} == set(rows[0])
    for metric in METRICS:
        found = result.interval("plain", metric, samples=200)
        assert found.low <= found.value == rows[0][metric] <= found.high
        gain = result.difference("refined", "plain", metric, samples=200)
        assert gain.value == pytest.approx(rows[1][metric] - rows[0][metric])
    assert result.difference("refined", "plain", "mean_iu").clear_of_zero


def test_csv(result, tmp_path):
    result.write_csv(tmp_path / "a.csv", samples=100)
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["method"] for line in lines] == ["plain", "refined"]
    assert float(lines[0]["mean_iu"]) == pytest.approx(100 * result.score("plain", "mean_iu"), abs=1e-4)
    assert float(lines[0]["trimap_iu_low"]) < float(lines[0]["trimap_iu"]) < float(lines[0]["trimap_iu_high"])
    assert (lines[0]["pictures"], lines[0]["trimap_width"]) == ("6", "3")
    assert "iu a|b" in lines[0]
    result.write_csv(tmp_path / "b.csv", intervals=False)
    assert "mean_iu_low" not in (tmp_path / "b.csv").read_text()
    result.write_curve_csv(tmp_path / "curve.csv")
    with open(tmp_path / "curve.csv", newline="", encoding="utf-8") as stream:
        curve = list(csv.reader(stream))
    assert curve[0] == ["width", "plain", "refined"]
    assert len(curve) == 8
    assert float(curve[3][1]) == pytest.approx(100 * result.score("plain", "trimap_iu"), abs=1e-4)
    assert sorted(os.listdir(tmp_path)) == ["a.csv", "b.csv", "curve.csv"]


def test_markdown(result, tmp_path):
    result.write_markdown(tmp_path / "a.md", baseline="plain", samples=100)
    text = (tmp_path / "a.md").read_text(encoding="utf-8")
    assert f"{100 * result.score('refined', 'mean_iu'):.2f} [" in text
    assert "Difference to plain:" in text
    assert "a\\|b" in text
    assert "6 pictures; percent; trimap of 3 pixels; means over the 3 of 3 labels" in text
    assert text.endswith("[95 % bootstrap interval over pictures].\n")
    for table in text.split("\n\n"):
        widths = {line.replace("\\|", "").count("|") for line in table.splitlines() if line.startswith("|")}
        assert len(widths) <= 1
    assert "bootstrap" not in result.markdown(intervals=False)


def test_nothing_of_a_bad_picture_is_counted(tmp_path):
    evaluator = Evaluator(3)
    good = next(iter(pictures(1)))
    evaluator.update(*good)
    before = evaluator.compute().rows()
    with pytest.raises(ValueError, match="picture 'x': prediction: expected shape"):
        evaluator.update("x", good[1], {"plain": good[1], "refined": np.zeros((2, 2), int)})
    with pytest.raises(ValueError, match="expected plain, refined for every picture, got plain for 'x'"):
        evaluator.update("x", good[1], {"plain": good[1]})
    with pytest.raises(ValueError, match="got 'p0' again"):
        evaluator.update(*good)
    assert evaluator.compute().rows() == before
    with pytest.raises(ValueError, match="create it"):
        evaluator.compute().write_csv(tmp_path / "no" / "a.csv")


def test_mismatched_input_is_named(result):
    with pytest.raises(ValueError, match="pictures: expected at least one"):
        evaluate([], 3)
    with pytest.raises(ValueError, match="class_names: expected 3 names, got 1"):
        Evaluator(3, class_names=("a",))
    with pytest.raises(ValueError, match="trimap_width"):
        Evaluator(3, trimap_width=9, max_width=8)
    with pytest.raises(ValueError, match="expected at least one method"):
        Evaluator(3).update("a", np.zeros((2, 2), int), {})
    with pytest.raises(ValueError, match="method: expected one of 'plain', 'refined', got 'best'"):
        result.score("best", "mean_iu")
    with pytest.raises(ValueError, match="metric: expected one of 'mean_iu'"):
        result.score("plain", "miou")


def test_without_void_the_trimap_is_empty():
    result = evaluate([("a", np.array([[0, 1]]), {"plain": np.array([[0, 1]])})], 2)
    assert np.isnan(result.score("plain", "trimap_iu"))
    text = result.markdown(samples=10)
    assert "| plain | 100.00 " in text
    assert "nan" not in text
    assert "void pixels, and the truth has none" in text


def test_methods_are_compared_over_the_labels_of_the_truth():
    # Label 2 is in no truth: predicting one pixel of it costs that pixel, not a third of the mean.
    truth = np.array([[0, 0, 1, 1, 255]])
    sober, wild = np.array([[0, 0, 1, 0, 2]]), np.array([[0, 0, 1, 2, 2]])
    pictures = [(name, truth, {"sober": sober, "wild": wild}) for name in ("a", "b")]
    found = evaluate(pictures, 3, class_names=("sky", "sea", "land"))
    assert found.true_labels == ("sky", "sea")
    assert found.score("sober", "mean_iu") == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found.score("wild", "mean_iu") == pytest.approx((2 / 2 + 1 / 2) / 2)
    assert found.score("wild", "trimap_iu") == pytest.approx((2 / 2 + 1 / 2) / 2)
    assert found.trimap_curve("wild")[-1] == pytest.approx((2 / 2 + 1 / 2) / 2)
    assert found.per_label_iu("wild").tolist() == [1, 0.5, 0]  # the label's own column stays
    gain = found.difference("wild", "sober", "mean_iu", samples=50)
    assert gain.low == gain.high == pytest.approx(0.75 - 7 / 12)
    for kind in ("boundary_iou", "boundary_f"):
        sums = found.counts["wild"][kind].sum(0)
        assert found.score("wild", kind) == pytest.approx((sums[0, :2] / sums[1, :2]).mean())
    assert "means over the 2 of 3 labels that occur in the truth" in found.markdown(samples=10)


def test_white_truths_are_reported():
    white = np.array([[0, 255], [0, 255]])
    evaluator = Evaluator(2)
    evaluator.update("a", white, {"plain": np.zeros((2, 2), int)})
    with pytest.warns(UserWarning, match="truth: only 0 and 255 in all 1 pictures.*save white as 1"):
        evaluator.compute()
    evaluator.update("b", np.array([[0, 1], [0, 255]]), {"plain": np.zeros((2, 2), int)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluator.compute()
