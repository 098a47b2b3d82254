# SPDX-License-Identifier: MIT
"""Scores and label maps have the same meaning in all commands: one table of accepted and rejected ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import rasterio
from PIL import Image
from scipy.special import softmax

import rasters
from command_line import run
from crfrnn.io import read_nifti

SIZE = (6, 8)
LOGITS = np.random.default_rng(0).normal(0, 2, (3, *SIZE)).astype(np.float32)
P = softmax(LOGITS, 0)
LABELS = P.argmax(0).astype(np.uint8)
WHITE = np.where(LABELS > 0, 255, 0).astype(np.uint8)


def at(values: np.ndarray, number: float) -> np.ndarray:
    """With this number at one position."""
    out = values.copy()
    out[..., 2, 3] = number
    return out


def right(labels: np.ndarray, count: int, sure: float = 0.7) -> np.ndarray:
    """The meaning of a label map: the label has probability `sure`; 255 is unknown."""
    found = np.where(np.arange(count)[:, None, None] == labels, sure, (1 - sure) / (count - 1))
    return np.where(labels == 255, 1 / count, found)


Z = LOGITS[:1]
ONE = 1 / (1 + np.exp(-Z))
BOTH = np.concatenate([1 - ONE, ONE])
# name: kind, values, options, marginals before the CRF, or the error
TABLE: dict[str, tuple[str, np.ndarray, list[Any], np.ndarray | str]] = {
    "logits": ("logits", LOGITS, [], P),
    "double logits": ("logits", LOGITS.astype(np.float64), ["--labels", 3], P),
    "one logit": ("logits", Z, ["--labels", 2], BOTH),
    "probabilities": ("probabilities", P, [], P),
    "one probability": ("probabilities", ONE, [], BOTH),
    "rounded probabilities": ("probabilities", P * 1.005, [], P),
    "labels": ("labels", LABELS, ["--labels", 3], right(LABELS, 3)),
    "surer labels": ("labels", LABELS, ["--labels", 3, "--gt-prob", 0.9], right(LABELS, 3, 0.9)),
    "real labels": ("labels", LABELS.astype(np.float32), ["--labels", 3], right(LABELS, 3)),
    "unknown labels": ("labels", at(LABELS, 255), ["--labels", 3], right(at(LABELS, 255), 3)),
    "void": ("labels", at(LABELS, 9), ["--labels", 3, "--void", 9], right(at(LABELS, 255), 3)),
    "white is void": ("labels", WHITE, ["--labels", 2, "--void", 255], right(WHITE, 2)),
    "sums below 1": ("probabilities", P * 0.9, [], "sum 1 over the labels, got sums 0.9..0.9"),
    "sums above 1": ("probabilities", ONE.repeat(3, 0), [], "sum 1 over the labels, got sums"),
    "logits as probabilities": ("probabilities", LOGITS, [], "pass --kind logits"),
    "bytes": (
        "probabilities",
        (P * 255).astype(np.uint8),
        [],
        "floating-point probabilities, got dtype uint8",
    ),
    "NaN": ("logits", at(LOGITS, np.nan), [], "NaN or infinite in float32"),
    "infinity": ("logits", at(LOGITS, -np.inf), [], "limit infinite logits to ±50"),
    "beyond float32": ("logits", LOGITS * np.float64(1e300), [], "NaN or infinite in float32"),
    "another number of labels": ("logits", LOGITS, ["--labels", 4], "expected 4 labels, got 3"),
    "labels out of range": ("labels", at(LABELS, 7), ["--labels", 3], "labels 0..2 or -1, got 7"),
    "black and white": ("labels", WHITE, ["--labels", 2], "nothing but 0 and 255"),
    "fractions": ("labels", LABELS / np.float32(2), ["--labels", 3], "whole numbers, got float32"),
    "void is a label": ("labels", LABELS, ["--labels", 3, "--void", 1], "outside the labels 0..2, got 1"),
    "another kind": ("odds", P, [], "--kind: expected one of"),
}


def picture(root: Path, values: np.ndarray) -> Path:
    """A picture, its mask and its scores, as `refine`, `pseudo-labels` and `evaluate` find them."""
    for name in ("images", "masks", "unaries"):
        (root / name).mkdir()
    Image.new("RGB", (SIZE[1], SIZE[0])).save(root / "images" / "a.png")
    Image.fromarray(LABELS % 2).save(root / "masks" / "a.png")
    np.save(root / "unaries" / "a.npy", values)
    return root


def refine(root: Path, kind: str, values: np.ndarray, options: list[Any]) -> tuple[str, np.ndarray | None]:
    picture(root, values)
    layout = ["--layout", "lhw"] if values.ndim == 3 else []
    out = root / "o.png"
    code, _, errors = run(
        "refine", root / "images" / "a.png", "-u", root / "unaries", "--kind", kind, *layout, *options,
        "-T", 0, "--save-probabilities", "-o", out,
    )  # fmt: skip
    if code:
        return errors, None
    with np.load(root / "o_probabilities.npz") as saved:
        return errors, saved["probabilities"]


def tiles(root: Path, kind: str, values: np.ndarray, options: list[Any]) -> tuple[str, np.ndarray | None]:
    rasters.save(root / "scene.tif", np.zeros((3, *SIZE), np.uint8), tiled=False)
    rasters.save(root / "p.tif", values if values.ndim == 3 else values[None], tiled=False)
    code, _, errors = run(
        "tiles", root / "scene.tif", "-u", root / "p.tif", "--kind", kind, *options,
        "-T", 0, "--theta-alpha", 2, "--save-probabilities", "-o", root / "o.tif",
    )  # fmt: skip
    if code:
        return errors, None
    with rasterio.open(root / "o_probabilities.tif") as file:
        return errors, file.read()


def volume(root: Path, kind: str, values: np.ndarray, options: list[Any]) -> tuple[str, np.ndarray | None]:
    nibabel.save(nibabel.Nifti1Image(np.zeros((*SIZE, 2), np.uint8), np.eye(4)), root / "t1.nii")
    np.save(root / "p.npy", values[..., None].repeat(2, -1))
    code, _, errors = run(
        "volume", root / "t1.nii", "-u", root / "p.npy", "--kind", kind, *options,
        "-T", 0, "--save-probabilities", "-o", root / "o.nii.gz",
    )  # fmt: skip
    if code:
        return errors, None
    return errors, read_nifti(root / "o_probabilities.nii.gz").values[..., 1]


COMMANDS = {"refine": refine, "tiles": tiles, "volume": volume}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("row", TABLE)
def test_numbers_mean_the_same_in_every_command(tmp_path: Path, row: str, command: str) -> None:
    kind, values, options, expected = TABLE[row]
    errors, found = COMMANDS[command](tmp_path, kind, values, options)
    if isinstance(expected, str):
        assert found is None and expected in errors
    else:
        assert found is not None and np.abs(found - expected).max() < 1e-4, errors


# These two have no --gt-prob; --void of evaluate also applies to the masks.
NO_MARGINALS = [
    (row, command)
    for row, (_, _, options, _) in TABLE.items()
    for command in ("pseudo-labels", "evaluate")
    if "--gt-prob" not in options and (row, command) != ("void is a label", "evaluate")
]


@pytest.mark.slow
@pytest.mark.parametrize(("row", "command"), NO_MARGINALS)
def test_commands_without_marginals_accept_and_refuse_the_same(
    tmp_path: Path, row: str, command: str
) -> None:
    kind, values, options, expected = TABLE[row]
    picture(tmp_path, values)
    words = ["--kind", kind, *(["--layout", "lhw"] if values.ndim == 3 else []), *options]
    if command == "pseudo-labels":
        words += ["-m", tmp_path / "unaries", "--recipe", "clip-es", "-j", 1, "-o", tmp_path / "o"]
        code, said, errors = run(command, tmp_path / "images", *words)
    else:
        count = [] if "--labels" in words else ["--labels", max(2, len(values))]
        words += ["--unaries", tmp_path / "unaries", "-m", "plain", "-o", tmp_path / "o"]
        code, said, errors = run(command, tmp_path, *words, *count)
    if isinstance(expected, str):
        assert code and expected in errors
    else:
        assert code == 0, (said, errors)
