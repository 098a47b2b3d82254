# SPDX-License-Identifier: MIT
"""benchmarks/pictures.py: its parts run on real pictures, and compare the stated settings."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("pydensecrf")
pytest.importorskip("skimage")
import pictures
from crfrnn import CRFRNN
from crfrnn.datasets import DeepLabUnaries, voc_pictures

Command = Callable[..., list[dict[str, str]]]


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the script; its CSV."""

    def run(*words: str) -> list[dict[str, str]]:
        output = tmp_path / "pictures.csv"
        monkeypatch.setattr(sys, "argv", ["pictures.py", *words, "--threads", "1", "-o", str(output)])
        pictures.main()
        with output.open(encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))

    return run


@pytest.fixture
def detail(shared: Path) -> tuple[np.ndarray, np.ndarray]:
    """64 × 64 pixels of a real picture, UInt8[H, W, 3], and their logits, Float32[21, H, W]."""
    folder = shared / "data" / "voc2012-person"
    item = voc_pictures(folder, "val")[0]
    logits = DeepLabUnaries.load(folder / "unaries" / "val.npz").logits(item.id, item.image.shape[:2]).numpy()
    image, logits = item.image[100:164, 150:214], logits[:, 100:164, 150:214]
    return np.ascontiguousarray(image), np.ascontiguousarray(logits)


@pytest.mark.slow
@pytest.mark.real
def test_the_chosen_parts_run_on_a_real_picture(
    measured: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = measured("--parts", "network", "21", "--limit", "1")
    assert (first["part"], first["over"], first["under"]) == ("network", "CRF", "network")
    assert (first["width"], first["height"], first["equal labels"]) == ("513", "513", "")
    assert (second["part"], second["over"], second["under"]) == ("21", "pydensecrf2", "crfrnn")
    assert (second["name"], second["width"], second["height"]) == ("2008_000213", "500", "333")
    for row in (first, second):
        assert float(row["ratio"]) == float(row["over_seconds"]) / float(row["under_seconds"])
        assert row["machine"] and row["versions"] and row["runs"] == "1"
    assert float(second["equal labels"]) > 0.999 and float(second["largest |ΔQ|"]) < 0.1
    printed = capsys.readouterr().out
    assert "│ CRF     │ pydensecrf2 │" in printed and "│ network │ crfrnn      │" in printed


def test_wrong_arguments_are_named(measured: Command, capsys: pytest.CaptureFixture[str]) -> None:
    for words, says in ((("--parts", "22"), "invalid choice: '22'"), (("--limit", "0"), "--limit: expected")):
        with pytest.raises(SystemExit) as caught:
            measured(*words)
        assert caught.value.code == 2 and says in capsys.readouterr().err


@pytest.mark.real
def test_further_labels_matter_nowhere(detail: tuple[np.ndarray, np.ndarray]) -> None:
    image, logits = detail
    more = pictures.with_further_labels("a", logits)
    assert more.shape == (81, 64, 64) and more.dtype == np.float32
    assert np.array_equal(more[:21], logits)
    gap = more[21:] - logits.max(0)
    assert abs(gap.mean() + 10) < 0.05 and 0.5 < gap.std() < 1  # bilinear means of standard normal numbers
    assert np.array_equal(more, pictures.with_further_labels("a", logits))
    assert not np.array_equal(more, pictures.with_further_labels("b", logits))
    row = pictures.beside_the_peer("81", "a", image, more, runs=1, warm_up=False)
    assert row.labels == 81 and row.equal > 0.999
    probabilities = np.exp(more - more.max(0)) / np.exp(more - more.max(0)).sum(0)
    assert probabilities[21:].max() < 0.01
    for share, threshold in zip(row.above, (0.003, 0.01, 0.03), strict=True):
        assert share == pytest.approx((probabilities > threshold).any((1, 2)).sum() / 81)


@pytest.mark.real
def test_high_over_classic_runs_both_qualities(
    detail: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    run: list[tuple[str, bool]] = []
    forward = CRFRNN.forward

    def noted(crf: CRFRNN, *words: torch.Tensor, **options: int) -> torch.Tensor:
        run.append((crf.quality, crf.training))
        return forward(crf, *words, **options)

    monkeypatch.setattr(CRFRNN, "forward", noted)
    row = pictures.high_over_classic("readme", *detail, runs=1)
    assert run == [("high", False), ("classic", False)] * 2
    assert row.ratio == row.over_seconds / row.under_seconds > 0
