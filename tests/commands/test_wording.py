# SPDX-License-Identifier: MIT
"""Errors of commands name options, and following them works."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command_line import run
from crfrnn.commands.volume import volume
from crfrnn.commands.wording import in_options, options_of

OPTIONS = options_of(volume)


def test_every_argument_has_its_option() -> None:
    assert OPTIONS["axes"] == "--layout" and OPTIONS["num_labels"] == "--labels"
    assert OPTIONS["theta_alpha"] == "--theta-alpha" and OPTIONS["probabilities"] == "--unary"
    assert "guide" not in OPTIONS and "max_bytes" not in OPTIONS


@pytest.mark.parametrize(
    ("python", "command"),
    [
        ("for logits pass kind='logits'", "for logits pass --kind logits"),
        ("pass axes='lxyz' or axes='lzyx': x", "pass --layout lxyz or --layout lzyx: x"),
        ("exclude such voxels with mask=, or", "exclude such voxels with --mask, or"),
        ("name one with key=", "name one with --key"),
        ("which one means unknown: unknown=-1", "which one means unknown: --void -1"),
        ("theta_alpha: expected a positive number", "--theta-alpha: expected a positive number"),
        ("a.nii: kind: expected x", "a.nii: --kind: expected x"),
        ("labels: expected 0..3, got 7", "labels: expected 0..3, got 7"),
        ("use quality=\"high\"", "use --quality high"),
        ("scale it down (or, for a file that you trust, raise max_pixels)", "scale it down"),
        ("numpy.rot90(unary, -1, axes=(1, 2))", "numpy.rot90(unary, -1, axes=(1, 2))"),
        ("f(unary, kind='x')", "f(unary, kind='x')"),
        ("say so: --void 255 or unknown=255", "say so: --void 255"),
        ("pass kind='probabilities' (--kind probabilities) where", "pass --kind probabilities where"),
        ("--layout lhw (axes=(0, 1)), or", "--layout lhw, or"),
        ("pass --void 25 or --void 255", "pass --void 25 or --void 255"),
        ("pass backend=\"reference\"", "pass backend=\"reference\""),
        ("read as [z, y, x] in 'kind=a.npz'", "read as [z, y, x] in 'kind=a.npz'"),
    ],
)  # fmt: skip
def test_words(python: str, command: str) -> None:
    assert in_options(python, OPTIONS) == command


def test_following_the_words_of_refine(tmp_path: Path) -> None:
    """Correct a wrong kind and a wrong layout by following the errors."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (12, 15, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    np.save(tmp_path / "z.npy", rng.normal(size=(2, 12, 15)).astype(np.float32))
    out, words = tmp_path / "out", {"--kind": "probabilities", "--layout": "lwh"}
    for _ in range(len(words)):
        flat = [word for pair in words.items() for word in pair]
        code, _, error = run("refine", tmp_path / "a.png", "-u", tmp_path / "z.npy", "-o", out, *flat)
        assert code == 1
        found = re.search(r"(--kind|--layout) (\w+)(?= would fit|\n)", error.splitlines()[0] + "\n")
        assert found, error
        words[found[1]] = found[2]
    code, *_ = run(
        "refine", tmp_path / "a.png", "-u", tmp_path / "z.npy", "-o", out, "--overwrite",
        *[word for pair in words.items() for word in pair],
    )  # fmt: skip
    assert code == 0 and words == {"--kind": "logits", "--layout": "lhw"}
