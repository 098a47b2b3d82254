# SPDX-License-Identifier: MIT
"""`crfrnn refine` as a user runs it: files, folders, globs, failures, exit codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from command_line import names, run
from crfrnn import CRFRNN
from crfrnn.io import read_image, read_label_png, voc_palette, write_label_png
from crfrnn.training import save_parameters
from toy import LABELS, SIZE, make_pictures


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_pictures(tmp_path, pictures=3)


def test_one_picture_equals_the_layer(root: Path) -> None:
    out = root / "new" / "labels.png"
    code, said, _ = run(
        "refine",
        root / "images/p0.png",
        "-u",
        root / "unaries/p0.npy",
        "--kind",
        "logits",
        "--layout",
        "lhw",
        "--theta-beta",
        20,
        "-T",
        4,
        "--save-probabilities",
        "-o",
        out,
    )
    assert code == 0 and str(out) in said
    assert names(out.parent) == ["labels.png", "labels_panel.png", "labels_probabilities.npz"]
    image = torch.from_numpy(read_image(root / "images/p0.png")).permute(2, 0, 1)[None]
    unary = torch.from_numpy(np.load(root / "unaries/p0.npy"))[None]
    with torch.no_grad():
        logits = CRFRNN(LABELS, theta_beta=20.0, iterations=4)(unary, image)[0]
    assert np.array_equal(read_label_png(out), logits.argmax(0).numpy())
    with np.load(out.with_name("labels_probabilities.npz")) as saved:
        assert np.allclose(saved["probabilities"], logits.softmax(0).numpy(), atol=1e-6)
    with Image.open(out) as picture:
        assert picture.mode == "P" and picture.getpalette() == voc_palette().flatten().tolist()


def test_a_damaged_picture_does_not_stop_a_folder(root: Path) -> None:
    (root / "images" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    (root / "images" / "notes.txt").write_text("not a picture")
    (root / "unaries" / "p1.npy").write_bytes((root / "unaries" / "p1.npy").read_bytes()[:500])
    code, said, errors = run(
        "refine",
        root / "images",
        "-u",
        root / "unaries",
        "--kind",
        "logits",
        "--layout",
        "lhw",
        "-o",
        root / "o",
        "--no-panel",
    )
    assert code == 1
    assert names(root / "o") == ["p0.png", "p2.png"]
    assert "2 of 4 refined" in said and str(root / "o") in said
    assert "broken.jpg: image" in errors and "p1.png: unary" in errors and "Traceback" not in errors


def test_glob(root: Path) -> None:
    code, _, _ = run(
        "refine",
        f"{root}/images/p[12].png",
        "-u",
        root / "unaries",
        "--kind",
        "logits",
        "--layout",
        "lhw",
        "-o",
        root / "o",
    )
    assert code == 0
    assert names(root / "o") == ["p1.png", "p1_panel.png", "p2.png", "p2_panel.png"]


def test_scribbled_pixels_keep_their_labels(root: Path) -> None:
    drawn = np.full(SIZE, 255, np.uint8)
    drawn[3, 3:9], drawn[10, 12:15] = 2, 1
    write_label_png(root / "scribbles.png", drawn)
    code, _, _ = run(
        "refine",
        root / "images/p0.png",
        "-u",
        root / "scribbles.png",
        "--kind",
        "scribbles",
        "--labels",
        LABELS,
        "--gt-prob",
        0.9,
        "-o",
        root / "o",
    )
    found = read_label_png(root / "o" / "p0.png")
    assert code == 0 and (found[drawn != 255] == drawn[drawn != 255]).all()


def test_void_may_be_another_value(root: Path) -> None:
    held = np.full(SIZE, 11, np.uint8)
    held[:, :6], held[:, 16:] = 0, 1
    write_label_png(root / "map.png", held)
    words = ["refine", root / "images/p0.png", "-u", root / "map.png", "--kind", "labels", "--labels", 2]
    code, _, errors = run(*words, "-o", root / "o.png")
    assert code == 1 and "labels 0..1 or -1, got 11" in errors
    code, _, errors = run(*words, "--void", 11, "--save-probabilities", "-T", 0, "-o", root / "o.png")
    assert code == 0, errors
    with np.load(root / "o_probabilities.npz") as saved:
        assert np.allclose(saved["probabilities"][:, held == 11], 0.5)


def test_twelve_bits_cause_a_warning_and_are_scaled(root: Path) -> None:
    """The warning's own --scale gives the labels of the 8-bit picture."""
    grey = np.asarray(Image.open(root / "images/p0.png").convert("L"))
    Image.fromarray(grey).save(root / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 16).save(root / "deep.png")
    words = ["-u", root / "unaries/p0.npy", "--kind", "logits", "--layout", "lhw", "--no-panel", "-o"]
    code, _, errors = run("refine", root / "grey.png", *words, root / "a.png")
    assert code == 0 and not errors
    code, _, errors = run("refine", root / "deep.png", *words, root / "b.png")
    assert code == 0 and errors.startswith("warning: image") and errors.count("\n") == 1
    assert "--scale 0 4095" in errors
    code, _, errors = run("refine", root / "deep.png", "--scale", 0, 4095, *words, root / "c.png")
    assert code == 0 and not errors
    found = [read_label_png(root / f"{name}.png") for name in "abc"]
    assert (found[0] == found[2]).mean() > 0.99 > (found[0] == found[1]).mean()
    code, _, errors = run("refine", root / "deep.png", "--scale", 9, 9, *words, root / "d.png")
    assert code == 2 and "scale: expected two finite numbers" in errors


def test_one_logit_per_pixel_with_parameters_of_one_logit(root: Path) -> None:
    """A file without an axis of labels; the parameters that a sigmoid network was trained with."""
    image = read_image(root / "images/p0.png")
    z = np.random.default_rng(0).normal(0, 2, image.shape[:2]).astype(np.float32)
    np.save(root / "z.npy", z)
    crf = CRFRNN(1, theta_beta=20.0).eval()
    save_parameters(root / "one.safetensors", crf, class_names=["thing"])
    code, _, errors = run(
        "refine", root / "images/p0.png", "-u", root / "z.npy", "--kind", "logits", "--layout", "hw",
        "--params", root / "one.safetensors", "-o", root / "o.png",
    )  # fmt: skip
    assert code == 0, errors
    guide = torch.from_numpy(image).permute(2, 0, 1)[None]
    with torch.no_grad():
        wanted = crf(torch.from_numpy(z)[None, None], guide)[0, 0] > 0
    assert np.array_equal(read_label_png(root / "o.png"), wanted.numpy())


def test_parameter_file(root: Path) -> None:
    path = root / "none.safetensors"
    save_parameters(path, CRFRNN(LABELS, iterations=0), class_names=["a", "b", "c"])
    code, said, _ = run(
        "refine",
        root / "images/p0.png",
        "-u",
        root / "unaries",
        "--kind",
        "logits",
        "--layout",
        "lhw",
        "--params",
        path,
        "-o",
        root / "o",
    )
    assert code == 0 and "0.0 % of the pixels" in said
    plain = np.load(root / "unaries/p0.npy").argmax(0)
    assert np.array_equal(read_label_png(root / "o" / "p0.png"), plain)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--kind", "logits"], "--layout"),
        (["--kind", "logits", "--layout", "lwl"], "--layout"),
        (["--layout", "lhw", "--kind", "magic"], "--kind"),
        (["--kind", "labels"], "--labels"),
        (["--kind", "logits", "--layout", "lhw", "--preset", "best"], "preset"),
        (["--kind", "logits", "--layout", "lhw", "--theta-alpha", "-3"], "--theta-alpha: expected"),
        (["--kind", "logits", "--layout", "lhw", "-T", "-1"], "--iterations"),
        (["--kind", "logits", "--layout", "lhw", "--params", "no.safetensors"], "params"),
        (["--kind", "logits", "--layout", "lhw", "--quality", "x"], "quality"),
    ],
)
def test_usage_errors_are_one_line_and_code_2(root: Path, words: list[str], said: str) -> None:
    code, _, errors = run("refine", root / "images", "-u", root / "unaries", "-o", root / "o", *words)
    assert code == 2 and errors.startswith("error: ") and said in errors
    assert len(errors.strip().splitlines()) == 1 and not (root / "o").exists()


def test_params_with_numbers_or_other_label_counts_are_refused(root: Path) -> None:
    path = root / "five.safetensors"
    save_parameters(path, CRFRNN(5))
    common = [
        "refine",
        root / "images",
        "-u",
        root / "unaries",
        "--kind",
        "logits",
        "--layout",
        "lhw",
        "-o",
        root / "o",
        "--params",
        path,
    ]
    code, _, errors = run(*common, "--theta-beta", 3)
    assert code == 2 and "--theta-beta" in errors
    code, _, errors = run(*common)
    assert code == 1 and "5 labels" in errors and names(root / "o") == []


def test_missing_things(root: Path) -> None:
    for words in (
        [root / "no.png", "-u", root / "unaries"],
        [root / "masks/*.jpg", "-u", root / "unaries"],
        [root / "images", "-u", root / "nowhere"],
        [root / "images", "-u", root / "unaries/p0.npy"],
    ):
        code, _, errors = run("refine", *words, "--kind", "logits", "--layout", "lhw", "-o", root / "o")
        assert code == 2 and "expected" in errors


def test_debug_shows_the_traceback(root: Path) -> None:
    words = ["refine", root / "no.png", "-u", root, "--kind", "logits", "--layout", "lhw", "-o", root / "o"]
    code, _, errors = run(*words)
    assert code == 2 and "Traceback" not in errors
    code, _, errors = run("--debug", *words)
    assert code == 2 and "Traceback" in errors and "FileError" in errors


def logits(root: Path, *more: object, image: object = "images", out: str = "o") -> list[object]:
    return ["refine", root / str(image), "-u", root / "unaries", "--kind", "logits", "--layout", "lhw",
            "-o", root / out, *more]  # fmt: skip


def test_a_stopped_run_resumes_only_with_its_own_settings(root: Path) -> None:
    code, said, _ = run(*logits(root, "--no-panel"))
    assert code == 0 and "3 of 3 refined" in said
    (root / "o" / "p1.png").unlink()
    code, said, _ = run(*logits(root, "--no-panel", "--skip-existing"))
    assert code == 0 and "1 of 3 refined" in said and "2 already existed" in said
    for words in (["-T", 1], ["--theta-beta", 9]):
        code, _, errors = run(*logits(root, "--no-panel", "--skip-existing", *words))
        assert code == 2 and "same settings" in errors and "--overwrite" in errors
    code, said, _ = run(*logits(root, "--no-panel", "--skip-existing", "-T", 1, "--overwrite"))
    assert code == 0 and "3 of 3 refined" in said
    np.save(root / "unaries" / "p1.npy", np.load(root / "unaries" / "p1.npy") + 1)
    code, _, errors = run(*logits(root, "--no-panel", "--skip-existing", "-T", 1))
    assert code == 2 and "made from other inputs" in errors and errors.count("\n") == 1


@pytest.mark.slow
def test_results_in_a_folder_of_photographs_are_not_taken_for_photographs(root: Path) -> None:
    photographs = {p: p.read_bytes() for p in (root / "images").iterdir()}
    code, _, errors = run(*logits(root, out="images"))
    assert code == 2 and "would overwrite the input" in errors
    assert photographs == {p: p.read_bytes() for p in (root / "images").iterdir()}
    for path in photographs:
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    for _ in range(2):
        code, said, _ = run(*logits(root, out="images"))
        assert code == 0 and "3 of 3 refined" in said
    Image.open(root / "images" / "p0.bmp").save(root / "images" / "p1_probabilities.npz", "BMP")
    code, _, errors = run(*logits(root, "--save-probabilities", out="images"))
    assert code == 2 and "p1_probabilities.npz" in errors and "did not write" in errors


def test_pictures_of_equal_name_keep_their_folders_and_unaries(root: Path) -> None:
    for k, day in enumerate(("monday", "tuesday")):
        for kind, ending in (("images", "png"), ("unaries", "npy")):
            (root / kind / day).mkdir()
            (root / kind / f"p{k}.{ending}").rename(root / kind / day / f"x.{ending}")
    code, _, _ = run(*logits(root, "--no-panel", image="images/*day/*"))
    assert code == 0 and names(root / "o") == ["monday", "tuesday"]
    for day in ("monday", "tuesday"):
        words = logits(root, "--no-panel", image=f"images/{day}/x.png", out=f"{day}.png")
        assert run(*words[:3], root / f"unaries/{day}", *words[4:])[0] == 0
        np.testing.assert_array_equal(
            read_label_png(root / "o" / day / "x.png"), read_label_png(root / f"{day}.png")
        )


def test_a_picture_named_as_the_panel_of_another_is_refused_at_once(root: Path) -> None:
    Image.open(root / "images/p0.png").save(root / "images/p0_panel.png")
    np.save(root / "unaries/p0_panel.npy", np.load(root / "unaries/p0.npy"))
    code, _, errors = run(*logits(root))
    assert code == 2 and "p0_panel.png" in errors and "same name" in errors and not (root / "o").exists()
    code, said, _ = run(*logits(root, "--no-panel"))
    assert code == 0 and "4 of 4 refined" in said


@pytest.mark.parametrize("place", ["/proc/x", "/dev/null", "/dev/null/x.png", "/sys/x", "images/p0.png/x"])
def test_an_unwritable_output_is_one_line(root: Path, place: str) -> None:
    code, _, errors = run(*logits(root, image="images/p0.png")[:-1], root / place)
    assert code == 2 and errors.startswith("error: -o") and errors.count("\n") == 1
