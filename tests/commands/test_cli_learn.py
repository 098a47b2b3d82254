# SPDX-License-Identifier: MIT
"""`crfrnn fit`, `tune`, `evaluate` end to end on small pictures."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from command_line import names, run
from crfrnn.commands import common
from crfrnn.io import write_label_png
from crfrnn.training import load_parameters
from toy import LABELS, SIZE, make_pictures


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("toy"))


def source(root: Path) -> list[object]:
    return ["--unaries", root / "unaries", "--layout", "lhw", "--labels", LABELS]


def test_fit_tune_evaluate(root: Path, tmp_path: Path) -> None:
    tuned, learned = tmp_path / "tuned.safetensors", tmp_path / "learned.safetensors"
    code, said, errors = run(
        "tune",
        root,
        *source(root),
        "--trials",
        3,
        "--folds",
        3,
        "-T",
        2,
        "--study",
        tmp_path / "s.log",
        "-s",
        "ranges.theta_beta=[2, 60]",
        "-o",
        tuned,
    )
    assert code == 0, errors
    assert "Cross-validated" in said
    saved = load_parameters(tuned)
    assert saved.provenance["ranges"]["theta_beta"] == [2, 60] and len(saved.provenance["ranges"]) == 6
    assert saved.provenance["command"] == "tune" and 0 < saved.scores["cross_validated"]["mean_iu"] <= 1

    code, said, errors = run(
        "fit",
        root,
        *source(root),
        "--start",
        tuned,
        "--epochs",
        1,
        "--folds",
        3,
        "--label-weights",
        "matrix",
        "-s",
        "rate_theta=0",
        "-o",
        learned,
    )
    assert code == 0, errors
    assert str(learned) in said and (tmp_path / "learned.csv").is_file()
    saved = load_parameters(learned)
    assert saved.crf.label_weights == "matrix" and saved.crf.iterations == 2
    assert saved.provenance["config"]["rate_theta"] == 0
    assert torch.equal(saved.crf.log_theta_beta, load_parameters(tuned).crf.log_theta_beta)
    assert saved.provenance["config"]["epochs"] == 1 and str(root) not in str(saved.provenance)

    folder = tmp_path / "plain"
    folder.mkdir()
    for path in (root / "unaries").iterdir():
        write_label_png(folder / f"{path.stem}.png", np.load(path).argmax(0))
    code, said, errors = run(
        "evaluate",
        root,
        *source(root),
        "-m",
        "plain",
        "-m",
        f"pngs=folder:{folder}",
        "-m",
        f"params:{learned}",
        "-m",
        "preset:crfasrnn",
        "--samples",
        20,
        "-o",
        tmp_path / "out",
    )
    assert code == 0, errors
    assert names(tmp_path / "out") == ["differences.csv", "scores.csv", "scores.md", "trimap.csv"]
    with (tmp_path / "out" / "scores.csv").open() as stream:
        rows = {row["method"]: row for row in csv.DictReader(stream)}
    assert list(rows) == ["plain", "pngs", "learned", "crfasrnn"]
    assert rows["plain"]["mean_iu"] == rows["pngs"]["mean_iu"]
    assert float(rows["learned"]["mean_iu"]) > float(rows["plain"]["mean_iu"])


def test_the_keys_of_a_configuration_are_printed() -> None:
    for command, key, value in (("fit", "boundary_width", 5), ("tune", "metric", "both")):
        code, said, _ = run(command, "--show")
        assert code == 0 and yaml.safe_load(said)[key] == value and "# " in said


def test_all_folds(root: Path, tmp_path: Path) -> None:
    code, _, errors = run(
        "fit",
        root,
        *source(root),
        "--all-folds",
        "--folds",
        2,
        "--epochs",
        1,
        "-T",
        1,
        "-o",
        tmp_path / "a.safetensors",
    )
    assert code == 0, errors
    assert names(tmp_path) == ["a-0.csv", "a-1.csv", "a.safetensors"]


@pytest.mark.parametrize(
    ("words", "where", "status", "kept", "said"),
    [
        ("fit --epochs 9 --folds 3", ("fit", 2), 143, True, "--start"),
        ("fit --epochs 9 --folds 3", ("validate", 0), 143, False, "stopped by SIGTERM"),
        ("fit --epochs 1 --folds 3 --all-folds", ("again", 3), 130, True, "--start"),
        ("tune --trials 9 --folds 2", ("tune", 2), 143, True, "the best of 2 settings is saved"),
        (
            "tune --trials 9 --folds 2 --study {out}/s.log",
            ("tune", 0),
            130,
            False,
            "repeat the command to resume",
        ),
    ],
)
def test_a_signal_keeps_the_best_so_far(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, where: tuple[str, int],
    status: int, kept: bool, said: str,
) -> None:  # fmt: skip
    asked = []

    def reporter(bar: object) -> Callable[..., None]:
        asked.append("again")

        def report(what: str, number: int, *_: object) -> None:
            if where in ((what, number), ("again", len(asked))):
                os.kill(os.getpid(), status - 128)

        return report

    monkeypatch.setattr(common, "epoch_report", reporter)
    command, *more = words.format(out=tmp_path).split()
    output = tmp_path / "a.safetensors"
    code, _, errors = run(command, root, *source(root), *more, "-T", 1, "-o", output)
    assert code == status and said in errors, errors
    assert output.is_file() == kept
    if kept:
        assert load_parameters(output).crf.num_labels == LABELS


def test_evaluating_folders_needs_no_unaries(root: Path, tmp_path: Path) -> None:
    words = ["evaluate", root, "--labels", LABELS, "--samples", 5, "-o", tmp_path / "out"]
    code, said, errors = run(*words, "-m", f"truth={root / 'masks'}")
    assert code == 0, errors
    assert "100.00" in said
    (tmp_path / "some").mkdir()
    assert run(*words, "-m", f"other=folder:{root / 'masks'}", "--overwrite")[0] == 0
    code, _, errors = run(*words, "-m", tmp_path / "some")
    assert code == 2 and "p0.png" in errors and "nothing under that name" in errors
    pictures = len(list((root / "masks").iterdir()))
    assert f"({pictures} of this kind: p0, p1, p2, …)" in errors and len(errors.splitlines()) == 2
    for name in ("p0", "p1"):
        (tmp_path / "some" / f"{name}.png").write_bytes(b"no picture")
    for mask in sorted((root / "masks").iterdir())[2:]:
        shutil.copy(mask, tmp_path / "some")
    code, _, errors = run(*words, "-m", tmp_path / "some", "--overwrite")
    assert code == 2 and "(2 of this kind: p0, p1)" in errors and "nothing was written" in errors


def test_black_and_white_truths_and_predictions_are_reported(tmp_path: Path) -> None:
    root, white = make_pictures(tmp_path / "own", pictures=2), tmp_path / "white"
    white.mkdir()
    held = np.zeros(SIZE, np.uint8)
    held[:, 9:] = 255
    for path in (root / "masks").iterdir():
        write_label_png(white / path.name, held)
    words = ["evaluate", root, "--labels", LABELS, "--samples", 5, "-o", tmp_path / "out", "-m"]
    code, _, errors = run(*words, f"white={white}")
    assert code == 2 and "prediction" in errors and "nothing but 0 and 255" in errors
    for path in white.iterdir():
        path.rename(root / "masks" / path.name)
    truth = f"a={root / 'masks'}"
    for command in ([*words, truth], ["fit", root, *source(root), "-o", tmp_path / "a.safetensors"]):
        code, _, errors = run(*command)
        assert code == 2 and "only 0 and 255 in all" in errors and "255: object" in errors
    code, _, errors = run(*words, truth, "--void", 255)
    assert "255: object" not in errors  # accepted: the option states what 255 means


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("fit {root} --labels 3 --unaries nowhere -o {out}/a.safetensors", "--unaries"),
        ("fit {root} --unaries {root}/unaries --layout lhw -o {out}/a.safetensors", "--labels"),
        ("fit {root} --labels 3 --unaries {root}/unaries -o {out}/a.safetensors", "axes"),
        ("fit {root} --unaries {root}/unaries -o {out}/a.pkl", "-o"),
        ("fit {root} --unaries {root}/unaries -s epoch=3 -o {out}/a.safetensors", "did you mean epochs"),
        (
            "fit {root} --unaries x --epochs 2 -s epochs=3 -o {out}/a.safetensors",
            "--epochs: expected one value",
        ),
        ("tune {root} --unaries {root}/unaries -s folds=1 -o {out}/a.safetensors", "at least 2, got 1"),
        ("fit {out} --unaries {root}/unaries -o {out}/a.safetensors", "root"),
        ("evaluate {root} --labels 3 -m plain -o {out}/o", "--unaries"),
        ("evaluate {root} --labels 3 -m best --unaries {root}/unaries --layout lhw -o {out}/o", "--method"),
        ("evaluate {root} --labels 3 -m plain --baseline x -o {out}/o", "--baseline"),
        ("evaluate {root} --labels 3 -m plain -m plain -o {out}/o", "--method"),
    ],
)
def test_usage_errors(root: Path, tmp_path: Path, words: str, said: str) -> None:
    code, _, errors = run(*words.format(root=root, out=tmp_path).split())
    assert code == 2 and errors.startswith("error: ") and said in errors
    assert not (tmp_path / "o").exists() and not (tmp_path / "a.safetensors").exists()
