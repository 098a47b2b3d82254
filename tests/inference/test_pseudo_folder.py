# SPDX-License-Identifier: MIT
"""Runs over files: resuming, broken pictures, dying processes; as a command and as a function."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from command_line import names, run
from crfrnn.inference.pseudo import CAM_CRFS, Job, refine_labels, write_pseudo_labels
from crfrnn.inference.workers import DIED, Result, work_through
from crfrnn.io import read_cams, read_image, read_label_png, write_label_png
from crfrnn.io.manifest import MANIFEST
from toy import SIZE, make_pictures

KEYS = np.array([14, 7])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """images/p0.png … p4.png with cams/p0.npz …: labels 15 and 8 of the two regions."""
    make_pictures(tmp_path, pictures=5)
    (tmp_path / "cams").mkdir()
    for path in sorted((tmp_path / "masks").iterdir()):
        mask = read_label_png(path)
        maps = np.stack([(mask == label) * 0.8 + 0.1 for label in (1, 2)]).astype(np.float32)
        np.savez(tmp_path / "cams" / f"{path.stem}.npz", keys=KEYS, high_res=maps)
    return tmp_path


def jobs(root: Path) -> list[Job]:
    return [Job(f"p{k}", root / f"images/p{k}.png", root / f"cams/p{k}.npz") for k in range(5)]


def test_files_equal_refine_labels_and_are_not_made_twice(root: Path) -> None:
    out, seen = root / "out", []
    report = write_pseudo_labels(jobs(root)[:3], out, processes=1, progress=lambda *n: seen.append(n))
    assert (report.done, report.skipped, report.failed) == (3, 0, {})
    assert names(out) == ["p0.png", "p1.png", "p2.png"]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    image, cams = read_image(root / "images/p1.png"), read_cams(root / "cams/p1.npz", size=SIZE)
    assert cams.labels.tolist() == [15, 8]
    assert np.array_equal(read_label_png(out / "p1.png"), refine_labels([image], [cams])[0])
    assert set(np.unique(read_label_png(out / "p1.png"))) <= {0, 8, 15, 255}

    write_label_png(out / "p1.png", np.full(SIZE, 20))  # keep finished files, recreate missing ones
    (out / "p0.png").unlink()
    (out / "p2.png").write_bytes(b"")
    report = write_pseudo_labels(jobs(root), out, processes=1)
    assert (report.done, report.skipped) == (4, 1)
    assert (read_label_png(out / "p1.png") == 20).all()
    with pytest.raises(
        ValueError, match=r"^output .*expected a folder started with the same settings.*recipe"
    ):
        write_pseudo_labels(jobs(root), out, "seam", processes=1)
    report = write_pseudo_labels(jobs(root), out, "seam", processes=1, overwrite=True)
    assert (report.done, report.skipped) == (5, 0)
    (made,) = json.loads((out / MANIFEST).read_text())["runs"].values()
    assert made["settings"]["recipe"]["levels"] == [4.0, 24.0]


@pytest.mark.slow
def test_processes_and_batches_agree_and_survive_a_bad_picture(root: Path) -> None:
    (root / "images/p1.png").write_bytes(b"\x89PNG no picture")
    np.savez(root / "cams/p3.npz", keys=KEYS, high_res=np.zeros((2, 5, 5), np.float32))
    (root / "cams/p4.npz").unlink()
    for out, how in (("a", {"processes": 1}), ("b", {"processes": 2}), ("c", {"processes": 1, "batch": 4})):
        report = write_pseudo_labels(jobs(root), root / out, **how)
        assert report.done == 2 and sorted(report.failed) == ["p1", "p3", "p4"]
        assert "image" in report.failed["p1"] and "18 rows × 22" in report.failed["p3"]
        assert "nothing under that name" in report.failed["p4"]
        assert names(root / out) == ["p0.png", "p2.png"]
    for name in ("p0.png", "p2.png"):
        pixels = [read_label_png(root / out / name) for out in "abc"]
        assert np.array_equal(pixels[0], pixels[1]) and np.array_equal(pixels[0], pixels[2])


def _work_or_die(chunk: list[int]) -> list[Result]:
    if 7 in chunk:
        os.kill(os.getpid(), signal.SIGKILL)
    error = None if torch.get_num_threads() == 1 else "several threads"
    return [Result(job, error=error) for job in chunk]


@pytest.mark.slow
def test_only_the_job_that_kills_its_process_is_lost() -> None:
    results = list(work_through(_work_or_die, [[6, 7], [8, 9], [1, 2]], 1))
    assert sorted(one.job for one in results) == [1, 2, 6, 7, 8, 9], "every job once"
    assert [one.job for one in results if one.error == DIED] == [7]
    assert all(one.error is None for one in results if one.job != 7)


@pytest.mark.slow
def test_a_script_without_a_main_guard_gets_an_error(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from crfrnn.inference.workers import work_through\nlist(work_through(len, [[1]], 1))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, check=False, timeout=100)
    assert done.returncode == 1 and b"processes: expected processes that start" in done.stderr


def test_command(root: Path) -> None:
    (root / "images/p2.png").write_bytes(b"GIF89a no")
    words = ("pseudo-labels", root / "images", "-m", root / "cams", "-o", root / "o", "-j", 1)
    code, said, errors = run(*words)
    assert code == 1 and "4 of 5 written, 0 already existed" in said
    assert "p2: image" in errors and "1 of 5 pictures failed" in errors and "Traceback" not in errors
    Image.new("RGB", SIZE[::-1], (10, 200, 30)).save(root / "images/p2.png")
    code, said, _ = run(*words)
    assert code == 0 and "1 of 5 written, 4 already existed" in said
    (root / "list.txt").write_text("p3\np0\n")
    code, said, _ = run(*words[:5], root / "l", "-j", 1, "--list", root / "list.txt", "--level", 0.5, "-T", 3)
    assert code == 0 and names(root / "l") == ["p0.png", "p3.png"]
    own = replace(CAM_CRFS["irn"], levels=(0.5,), iterations=3)
    image, cams = read_image(root / "images/p3.png"), read_cams(root / "cams/p3.npz")
    assert np.array_equal(read_label_png(root / "l/p3.png"), refine_labels([image], [cams], own)[0])


def test_command_refines_scores_of_all_labels_and_label_maps(root: Path) -> None:
    start = ("pseudo-labels", f"{root}/images/p[01].png", "-j", 1)
    code, _, _ = run(*start, "-m", root / "unaries", "--kind", "logits", "--layout", "lhw", "-o", root / "a")
    assert code == 0 and names(root / "a") == ["p0.png", "p1.png"]
    code, _, _ = run(*start, "-m", root / "masks", "--kind", "labels", "--labels", 3, "-o", root / "b")
    assert code == 0
    truth = read_label_png(root / "masks/p0.png")
    known = truth != 255
    assert (read_label_png(root / "b/p0.png")[known] == truth[known]).mean() > 0.97


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--recipe", "crf"), "recipe: expected one of"),
        (("--recipe", "cutler"), "--level: expected one or two numbers"),
        (("--kind", "scribbles"), "--kind: expected one of"),
        (("--kind", "logits"), "--layout: expected the order"),
        (("--kind", "labels"), "--labels: expected"),
        (("-j", "0"), "processes: expected at least 1"),
        (("--batch", "0"), "batch: expected at least 1"),
        (("--device", "cuda", "-j", "2"), "processes: expected 1 on cuda"),
        (("--quality", "best"), "quality: expected"),
        (("--list", "nowhere.txt"), "--list"),
    ],
)
def test_usage_errors_are_named_before_any_work(root: Path, words: tuple[str, ...], named: str) -> None:
    code, _, errors = run("pseudo-labels", root / "images", "-m", root / "cams", "-o", root / "o", *words)
    assert code == 2 and named in errors
    assert not (root / "o").exists() or names(root / "o") == []


def test_pickled_dictionaries_are_refused_with_a_remedy(tmp_path: Path) -> None:
    maps = np.full((2, 4, 5), 0.5, np.float32)
    np.save(tmp_path / "irn.npy", {"keys": KEYS, "high_res": maps}, allow_pickle=True)  # pyright: ignore
    with pytest.raises(ValueError, match=r"pickled dictionary, which can run code.*numpy\.savez"):
        read_cams(tmp_path / "irn.npy")
    np.savez(tmp_path / "object.npz", keys=KEYS, high_res=np.array([{}], object))
    with pytest.raises(ValueError, match="pickled Python objects"):
        read_cams(tmp_path / "object.npz")


def test_both_forms_of_npz_are_read(tmp_path: Path) -> None:
    maps = np.random.default_rng(0).random((2, 4, 5)).astype(np.float32)
    np.savez(tmp_path / "a.npz", keys=KEYS, high_res=maps, cam=maps[:, ::2, ::2])
    np.savez(tmp_path / "b.npz", **{"14": maps[0], "7": maps[1]})
    np.savez(tmp_path / "c.npz", keys=KEYS, mine=maps)
    for name, key in (("a", None), ("b", None), ("c", "mine")):
        found = read_cams(tmp_path / f"{name}.npz", size=(4, 5), key=key)
        assert found.labels.tolist() == [15, 8] and torch.equal(found.scores, torch.from_numpy(maps))
    for entries, named in (
        ({"keys": KEYS}, "keys and one of"),
        ({"maps": maps}, "keys and maps, or maps"),
        ({"keys": KEYS.astype(float), "high_res": maps}, "integer keys"),
        ({"keys": KEYS, "high_res": maps.astype(int)}, "floating-point maps"),
        ({"keys": KEYS[:1], "high_res": maps}, "labels: expected 2 integers"),
        ({"7": maps[0], "14": maps[1, :2]}, "called by their class numbers"),
    ):
        np.savez(tmp_path / "bad.npz", **entries)
        with pytest.raises(ValueError, match=named):
            read_cams(tmp_path / "bad.npz")


WORKER = """
import sys, time
from pathlib import Path
from crfrnn.io import atomic
from crfrnn.inference.workers import work_through

def work(chunk):
    with atomic(Path(chunk[0]) / "result") as part:
        part.touch()
        time.sleep(60)

if __name__ == "__main__":
    list(work_through(work, [[sys.argv[1]]], 1))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "whole"), [(signal.SIGKILL, False), (signal.SIGTERM, True)])
def test_processes_do_not_outlive_the_run_and_leave_no_half_file(
    tmp_path: Path, number: signal.Signals, whole: bool
) -> None:
    (tmp_path / "script.py").write_text(WORKER)
    out = tmp_path / "out"
    out.mkdir()
    words = [sys.executable, str(tmp_path / "script.py"), str(out)]
    run = subprocess.Popen(words, start_new_session=True, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 100
    while not names(out) and time.monotonic() < until:
        time.sleep(0.02)
    (part,) = names(out)
    worker = int(part.split("-")[2])
    assert worker != run.pid
    (os.killpg if whole else os.kill)(run.pid, number)  # the whole group, or only the main process
    run.wait()
    while names(out) and time.monotonic() < until:
        time.sleep(0.02)
    assert names(out) == []
    while Path(f"/proc/{worker}").exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert time.monotonic() < until


IMPORTS = """
import sys, time
from pathlib import Path
from crfrnn.inference.workers import work_through

if __name__ == "__main__":
    try:
        list(work_through(print, [[0]], 1))
    except KeyboardInterrupt:
        sys.exit(130)
else:
    Path(sys.argv[1]).touch()
    time.sleep(1)
"""


@pytest.mark.slow
def test_ctrl_c_while_a_process_imports_shows_no_traceback_of_it(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(IMPORTS)
    words = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "imports")]
    run = subprocess.Popen(words, start_new_session=True, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 100
    while not (tmp_path / "imports").exists() and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGINT)
    _, said = run.communicate(timeout=100)
    assert (run.returncode, said) == (130, "")
