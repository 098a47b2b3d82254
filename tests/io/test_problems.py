# SPDX-License-Identifier: MIT
"""One line per kind of problem, and the pictures given on the command line."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from command_line import names, run
from crfrnn.commands.pictures import find_pictures
from crfrnn.commands.progress import Bar, Lines
from crfrnn.datasets import folder_pictures
from crfrnn.io import read_label_png
from crfrnn.io.problems import by_kind


def photographs(root: Path, *paths: str) -> None:
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 7), (30 * number, 90, 200 - number)).save(root / path)


def test_many_problems_are_summarised() -> None:
    many = [f"mask '/data/p{k}.png': expected 0..2, got {k + 3} at row {k}" for k in range(468)]
    lines = by_kind([*many[:400], "picture 'x': empty", *many[400:]])
    assert lines == [
        f"{many[0]} (468 of this kind: '/data/p0.png', '/data/p1.png', '/data/p2.png', …)",
        "picture 'x': empty",
    ]
    assert by_kind(["a.jpg: no a.npy", "b.jpg: no b.npy"], ["a", "b"]) == [
        "a.jpg: no a.npy (2 of this kind: a, b)"
    ]


def test_a_data_set_names_its_missing_masks_in_one_line(tmp_path: Path) -> None:
    photographs(tmp_path, *(f"images/p{k}.jpg" for k in range(50)))
    with pytest.raises(ValueError, match="got 50 missing or empty") as caught:
        folder_pictures(tmp_path)
    assert len(str(caught.value).splitlines()) == 2 and "50 of this kind" in str(caught.value)


def test_a_command_over_many_pictures_reports_each_kind_once(tmp_path: Path) -> None:
    photographs(tmp_path, *(f"in/p{k}.jpg" for k in range(7)))
    (tmp_path / "in" / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "u").mkdir()
    for name in ("p6", "broken"):
        np.save(tmp_path / "u" / f"{name}.npy", np.zeros((2, 7, 9), np.float32))
    words = ("--unary", tmp_path / "u", "--kind", "logits", "--layout", "lhw", "-T", 1)
    code, said, errors = run("refine", tmp_path / "in", *words, "-o", tmp_path / "out")
    lines = errors.splitlines()
    assert code == 1 and said.startswith("1 of 8 refined") and len(lines) == 3
    assert "(6 of this kind: p0.jpg, p1.jpg, p2.jpg, …)" in "".join(lines)
    assert lines[-1] == "error: 7 of 8 pictures failed"


def test_pictures_are_named_by_files_folders_and_globs(tmp_path: Path) -> None:
    photographs(tmp_path, "a/1.jpg", "a/2.png", "a/b/1.jpg", "a/b/c/3.jpg", "a/.hidden/4.jpg", "d/5.jpg")
    (tmp_path / "a" / "notes.txt").write_text("no picture")

    def found(*given: str, recursive: bool = False) -> dict[str, str]:
        pairs = find_pictures([str(tmp_path / word) for word in given], recursive).items()
        return {path.relative_to(tmp_path).as_posix(): name.as_posix() for path, name in pairs}

    assert found("a/1.jpg") == {"a/1.jpg": "1"}
    assert found("a") == {"a/1.jpg": "1", "a/2.png": "2"}
    assert found("a/1.jpg", "a/2.png", "d") == {"a/1.jpg": "1", "a/2.png": "2", "d/5.jpg": "5"}
    assert found("a/*.*g", "a/1.jpg") == {"a/1.jpg": "1", "a/2.png": "2"}
    assert found("a", recursive=True) == {
        "a/1.jpg": "1", "a/2.png": "2", "a/b/1.jpg": "b/1", "a/b/c/3.jpg": "b/c/3"
    }  # fmt: skip
    assert found("a/b", "d", recursive=True) == {
        "a/b/1.jpg": "a/b/1", "a/b/c/3.jpg": "a/b/c/3", "d/5.jpg": "d/5"
    }  # fmt: skip
    (tmp_path / "only" / "below").mkdir(parents=True)
    with pytest.raises(ValueError, match="--recursive also searches its subfolders"):
        found("only")
    with pytest.raises(ValueError, match=r"IMAGE '.*nowhere': expected a picture, a folder or a glob"):
        found("a", "nowhere")


def test_recursive_keeps_the_folders(tmp_path: Path) -> None:
    photographs(tmp_path, "in/a/1.jpg", "in/b/1.jpg", "in/2.jpg")
    for name, shape in (("a/1", 0), ("b/1", 1), ("2", 2)):
        labels = np.full((7, 9), shape, np.uint8)
        (tmp_path / "u" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "u" / f"{name}.npy", labels)
    words = ("--kind", "labels", "--labels", 3, "-T", 1, "--no-panel")
    out = tmp_path / "out"
    code, _, errors = run(
        "refine", tmp_path / "in", "-u", tmp_path / "u", *words, "--recursive", "-o", out
    )  # fmt: skip
    assert code == 0, errors
    for name, label in (("a/1", 0), ("b/1", 1), ("2", 2)):
        assert (read_label_png(out / f"{name}.png") == label).all()
    again = tmp_path / "pseudo"
    code, _, errors = run(
        "pseudo-labels", tmp_path / "in", "-m", tmp_path / "u", "--kind", "labels", "--labels", 3,
        "--recipe", "clip-es", "-j", 1, "--recursive", "-o", again,
    )  # fmt: skip
    assert code == 0, errors
    assert {"a", "b", "2.png"} <= set(names(again)) and (again / "a" / "1.png").is_file()


def test_progress_lines_are_occasional() -> None:
    now, said = [0.0], []
    lines = Lines(said.append, clock=lambda: now[0])
    task = lines.add("refine", 1000)
    for done in range(1, 1001):
        now[0] += 0.5
        lines.update(task, None, done, None)
    assert said[0] == "refine: 10 of 1000, 2 per second, 8 min 15 s left"
    assert said[1] == "refine: 20 of 1000, 2 per second, 8 min 10 s left"
    assert said[-1] == "refine: 1000 of 1000, 2 per second" and 40 < len(said) < 80
    said.clear()
    lines = Lines(said.append, clock=lambda: now[0])
    task = lines.add("fit, epoch 1", 4)
    for _ in range(2):
        for done in range(1, 5):
            now[0] += 30
            lines.update(task, None, done, None)
    assert said[0] == said[4] == "fit, epoch 1: 1 of 4, 30 s each, 1 min 30 s left"
    said.clear()
    lines = Lines(said.append, clock=lambda: now[0])
    now[0] += 10
    task = lines.add("train", 300)
    now[0] += 1e-5
    lines.update(task, None, 1, None)
    now[0] += 1.6
    lines.update(task, None, 300, None)
    assert said == ["train: 1 of 300", "train: 300 of 300, 187 per second"]


def test_progress_goes_to_a_stream_without_a_terminal_and_to_a_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crfrnn.commands.progress.FIRST", 0.0)
    monkeypatch.setattr("crfrnn.commands.progress.SHARE", 0.0)
    stream = io.StringIO()
    with Bar(Console(file=stream), tmp_path / "progress.log") as bar:
        count = bar.counter("read [x]", 3)
        for done in (1, 2, 3):
            count(done, 3)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3 and lines[-1].startswith("read [x]: 3 of 3")
    logged = (tmp_path / "progress.log").read_text().splitlines()
    assert [line.split(" ", 2)[2].split(",")[0] for line in logged] == [line.split(",")[0] for line in lines]
    terminal = io.StringIO()
    with Bar(Console(file=terminal, force_terminal=True)) as bar:
        bar.counter("read")(1, 3)
    assert "a second" not in terminal.getvalue()


@pytest.mark.parametrize(
    ("words", "said", "more"),
    [
        (("refine", "--unary", "--no-panel"), "the same command with --skip-existing", ("--skip-existing",)),
        (("pseudo-labels", "--maps", "--recipe", "clip-es", "-j", 1), "repeat the command to continue", ()),
    ],
    ids=["refine", "pseudo-labels"],
)
def test_a_stopped_command_says_so_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple, said: str, more: tuple
) -> None:
    photographs(tmp_path, "in/0.jpg", "in/1.jpg", "in/2.jpg")
    (tmp_path / "u").mkdir()
    for name in "012":
        np.save(tmp_path / "u" / f"{name}.npy", np.zeros((7, 9), np.uint8))
    command, option, *options = words
    line = [command, tmp_path / "in", option, tmp_path / "u", *options, "--kind", "labels", "--labels", 3,
            "-T", 1, "-o", tmp_path / "out"]  # fmt: skip
    write, written = Image.Image.save, []

    def signalled(self: Image.Image, fp: Path, **options: object) -> None:
        write(self, fp, **options)  # pyright: ignore[reportArgumentType]
        written.append(fp)
        if len(written) == 2:  # the second label map is not yet in place
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "save", signalled)
        code, _, errors = run(*line)
    assert code == 143 and errors.splitlines()[-1].startswith("stopped by SIGTERM; ") and said in errors
    assert len(list((tmp_path / "out").glob("*.png"))) == 1 and not list((tmp_path / "out").glob("*.tmp"))
    code, told, errors = run(*line, *more)
    assert code == 0 and told.startswith("2 of 3") and "1 already existed" in told, errors
