# SPDX-License-Identifier: MIT
"""Help, doctor, accuracy, demo."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image, ImageDraw

from command_line import run
from crfrnn.cli import main
from crfrnn.commands import common, health
from crfrnn.commands.doctor import NEEDS
from crfrnn.commands.parser import app
from crfrnn.crf import InputWarning
from crfrnn.demo.photograph import segment_photograph
from crfrnn.io import read_label_png
from crfrnn.lattice import Lattice

COMMANDS = [
    command.callback.__name__.replace("_", "-") for command in app.registered_commands if command.callback
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example(command: str) -> None:
    code, said, _ = run(command, "--help")
    assert code == 0 and f"Example: crfrnn {command}" in said


@pytest.mark.slow
def test_doctor_times_the_problem_of_the_published_table() -> None:
    code, said, _ = run("doctor")
    found = re.search(r"^speed: ([0-9.]+) s for 500 × 500 pixels, 21 labels, T = 10 ", said, re.M)
    assert code == 0 and found and 0.01 < float(found[1]) < 100
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    row = re.search(r"^\| forward, T = 10, θ 160/3/3 \| \*\*([0-9.]+) s\*\*", readme, re.M)
    assert row and float(row[1]) == health.PUBLISHED_SECONDS


def test_doctor_runs_the_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    found = health.backends()
    assert found["native"] == found["exact"] == "works"
    assert found["triton"] == "works" if torch.cuda.is_available() else found["triton"] == "not run: no GPU"
    build = Lattice.build

    def broken(features: Any, *arguments: Any, backend: str | None = None, **settings: Any) -> Lattice:
        if backend == "cpu":
            raise ImportError("no native module")
        return build(2 * features, *arguments, backend=backend, **settings)

    monkeypatch.setattr(Lattice, "build", staticmethod(broken))
    assert health.backends()["native"] == "does not work: ImportError: no native module"
    assert health._compared(torch.ones(3), torch.full((3,), 1.1)).startswith("wrong results: relative error")


def test_doctor_names_what_matters() -> None:
    code, said, _ = run("doctor", "--no-speed")
    assert code == 0 and "backend native: works" in said and "speed:" not in said
    for word in ("torch", "threads", "native module", "real data", "OK: every command has what it needs."):
        assert word in said


def test_doctor_names_missing_packages_and_how_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("optuna", "h5py", "rasterio"):
        monkeypatch.setitem(sys.modules, module, None)
    code, said, _ = run("doctor", "--no-speed")
    lines = dict(re.findall(r"^(crfrnn [a-z-]+): (.*)$", said, re.M))
    assert code == 0 and set(lines) == {f"crfrnn {name}" for name in [*COMMANDS, "experiment"]}
    assert lines["crfrnn tiles"].startswith("lacks rasterio: pip install '.[geo]'")
    assert lines["crfrnn tune"].startswith("lacks optuna: pip install '.[train]'")
    assert lines["crfrnn convert"].startswith("OK; for Keras files, lacks h5py: pip install '.[convert]'")
    assert lines["crfrnn fit"] == lines["crfrnn refine"] == "OK" and "OK: every command" not in said


def test_doctor_names_the_extras_of_the_package() -> None:
    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    listed = text.split("[project.optional-dependencies]")[1].split("[project.scripts]")[0]
    for need in (need for needs in NEEDS.values() for need in needs):
        packages = re.search(rf"^{need.extra} = \[(.*?)\]$", listed, re.M | re.S)
        assert packages and all(f'"{package}' in packages[1] for package in need.modules.values())


@pytest.mark.parametrize("name", ["table1", "ablations", "unaries", "unary-ablations"])
def test_every_experiment_has_its_own_sentence_and_example(name: str) -> None:
    code, said, _ = run("experiment", name, "--help")
    other = [word for word in re.findall(r"Example: crfrnn experiment (\S+)", said) if word != name]
    assert code == 0 and f"Example: crfrnn experiment {name} " in said and not other


def test_accuracy_reports_every_quality(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (24, 30, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    code, said, errors = run("accuracy", tmp_path / "a.png", "--theta-beta", 30, "--rows", 16)
    assert code == 0, errors
    assert all(
        word in said
        for word in ("classic", "default", "high", "finest", "separable", "vertices", "filter ms")
    )
    code, _, errors = run("accuracy", tmp_path / "no.png")
    assert code == 2 and "no.png" in errors


@pytest.mark.slow
def test_demo_ends_with_the_path_of_the_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, said, errors = run("demo", "-o", "demo-output")
    assert code == 0, errors
    assert said.splitlines()[-1] == "demo-output/panel.png"
    with Image.open(tmp_path / "demo-output" / "panel.png") as picture:
        assert picture.width >= 1000
    with Image.open(tmp_path / "demo-output" / "segmented.png") as picture:
        assert picture.width >= 800
    assert " person " in said
    labels = read_label_png(tmp_path / "demo-output" / "labels.png", 4)
    # Visible in the photograph: sky above, temple left of the middle, trees below, lake on the right.
    seen = [labels[60, 500], labels[150, 200], labels[410, 60], labels[280, 420]]
    assert seen == [0, 1, 2, 3]


# The outline of the woman in astronaut.png, drawn by hand, (x, y) in pixels.
OUTLINE = (
    (37, 512), (26, 469), (21, 445), (23, 417), (19, 399), (23, 375), (29, 338), (35, 309),
    (43, 281), (52, 263), (70, 244), (89, 230), (105, 216), (113, 206), (114, 188), (123, 176),
    (136, 159), (155, 151), (185, 149), (182, 131), (173, 122), (162, 110), (156, 94), (154, 70),
    (162, 56), (176, 45), (192, 35), (202, 23), (216, 18), (232, 16), (256, 19), (281, 30),
    (295, 49), (301, 84), (298, 108), (286, 124), (272, 134), (266, 136), (263, 150), (257, 164),
    (256, 173), (277, 188), (291, 204), (302, 225), (306, 241), (324, 253), (338, 265), (349, 281),
    (355, 309), (363, 333), (361, 349), (347, 356), (328, 370), (309, 384), (293, 413), (284, 436),
    (279, 469), (281, 512),
)  # fmt: skip


@pytest.mark.slow
def test_the_demo_outlines_the_person_and_the_crf_improves_it() -> None:
    drawn = Image.new("1", (512, 512))
    ImageDraw.Draw(drawn).polygon(OUTLINE, fill=1)
    truth = np.asarray(drawn)
    found = segment_photograph().prediction
    person = found.class_names.index("person")

    def iou(labels: np.ndarray) -> float:
        return float(((labels == person) & truth).sum() / ((labels == person) | truth).sum())

    assert iou(found.labels) > max(0.83, iou(found.before) + 0.03)


def test_debug_is_accepted_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["accuracy", "no.png", "--debug"])
    assert ended.value.code == 2 and "Traceback" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["accuracy", "no.png"])
    assert "Traceback" not in capsys.readouterr().err


def test_warnings_are_lines_without_a_place_and_those_of_one_kind_are_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def command() -> None:
        with common.progress() as bar:
            count = bar.counter("read", 6)
            for n in range(6):
                count(n, 6)
                warnings.warn("the same\n  for all", InputWarning, stacklevel=1)
                warnings.warn(
                    f"picture 'p{n}.png': range 0..{n / 8}; pass --scale", InputWarning, stacklevel=1
                )
        raise ValueError("no more")

    with pytest.raises(typer.Exit):
        common.reported(command)()
    said, errors = capsys.readouterr()
    assert said == "" and errors.splitlines() == [
        "warning: the same for all",
        "warning: picture 'p0.png': range 0..0.0; pass --scale",
        "warning: picture 'p1.png': range 0..0.125; pass --scale",
        "warning: picture 'p2.png': range 0..0.25; pass --scale",
        "warning: 3 more like: picture 'p0.png': range 0..0.0; pass --scale",
        "error: no more",
    ]
    with pytest.warns(UserWarning, match="outside"):  # as before the command
        warnings.warn("outside", stacklevel=1)
