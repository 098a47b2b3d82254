# SPDX-License-Identifier: MIT
"""User files are not overwritten, results have unique names, and no folder mixes two runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from crfrnn.io import outputs as module
from crfrnn.io.files import FileError
from crfrnn.io.manifest import MANIFEST, Manifest, identity
from crfrnn.io.outputs import Item, check_new, claim, result_names, without_results


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.jpg"
    path.write_bytes(b"photograph a")
    return path


def item(source: Path, out: Path, *names: str) -> Item:
    return Item((source,), tuple(out / name for name in names or (f"{source.stem}.png",)))


def make(out: Path, *items: Item, content: str = "ours", command: str = "refine", **options: Any) -> int:
    """Process the unfinished items and return their number."""
    settings = {"theta": options.pop("theta", 3)}
    with claim(out, command, settings, items, **options) as found:
        for one in items:
            if not found.finished(one):
                for file in one.files:
                    file.write_text(content)
        return sum(found.finished(one) for one in items)


def refused(out: Path, *items: Item, says: str, **options: Any) -> None:
    before = {p: p.read_bytes() for p in out.parent.rglob("*") if p.is_file() and not p.is_symlink()}
    with pytest.raises(FileError, match=says):
        make(out, *items, **options)
    assert before == {p: p.read_bytes() for p in out.parent.rglob("*") if p.is_file() and not p.is_symlink()}


def test_a_repeated_command_rewrites_its_own_files_or_resumes(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "new" / "out"
    one = item(source, out, "a_panel.png", "a.png")
    assert make(out, one) == 0 and (out / "a.png").read_text() == "ours"
    assert make(out, one, content="again") == 0 and (out / "a.png").read_text() == "again"
    assert make(out, one, content="no", resume=True) == 1 and (out / "a.png").read_text() == "again"
    (out / "a_panel.png").unlink()
    assert make(out, one, content="whole", resume=True) == 0 and (out / "a.png").read_text() == "whole"
    assert make(out, one, content="other", theta=4) == 0 and (out / "a.png").read_text() == "other"


@pytest.mark.parametrize("kind", ["file", "link", "dangling", "folder"])
def test_foreign_files_are_kept(tmp_path: Path, source: Path, kind: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    other, target = tmp_path / "other.png", out / "a.png"
    other.write_bytes(b"mine")
    if kind == "file":
        target.write_bytes(b"a photograph")
    elif kind == "folder":
        target.mkdir()
    else:
        target.symlink_to(other if kind == "link" else tmp_path / "nothing")
    says = "got a folder" if kind == "folder" else "did not write"
    for resume in (False, True):
        refused(out, item(source, out), says=says, resume=resume)
    assert not (out / MANIFEST).exists() and other.read_bytes() == b"mine"
    if kind == "file":
        assert make(out, item(source, out), overwrite=True) == 0 and target.read_text() == "ours"
        assert make(out, item(source, out)) == 0


def test_a_result_corrected_by_hand_is_kept(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"
    make(out, item(source, out))
    (out / "a.png").write_text("corrected")
    refused(out, item(source, out), says="changed since")
    assert make(out, item(source, out), resume=True) == 1 and (out / "a.png").read_text() == "corrected"
    make(out, item(source, out), overwrite=True)
    os.utime(out / "a.png", (1, 1))  # a copied folder has the same content but other timestamps
    make(out, item(source, out), content="anew")
    assert (out / "a.png").read_text() == "anew"


def test_inputs_are_never_overwritten(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    truth = tmp_path / "truth.png"
    truth.write_bytes(b"truth")
    (tmp_path / "by-link").symlink_to(source.parent)
    os.link(truth, out / "hard.png")
    (out / "soft.png").symlink_to(truth)
    for overwrite in (False, True):
        for file in (
            "in/a.jpg",
            "by-link/a.jpg",
            "truth.png",
            "out/hard.png",
            "out/soft.png",
            "out/../in/a.jpg",
        ):
            one = Item((source,), (tmp_path / file,))
            refused(out, one, says="would overwrite the input", inputs=[truth], overwrite=overwrite)


def test_results_of_two_pictures_never_share_a_name(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    panel = source.with_name("a_panel.jpg")
    items = [item(source, out, "a_panel.png", "a.png"), item(panel, out, "a_panel_panel.png", "a_panel.png")]
    refused(out, *items, says="same name.*a_panel.jpg", overwrite=True)
    assert not out.exists()
    items = [item(source, out), item(source.with_name("A.jpg"), out, "A.png")]
    make(out, *items)
    monkeypatch.setattr(module, "ignores_case", lambda folder: True)
    refused(out, *items, says="same name")
    composed, decomposed = (item(Path(f"{n}.jpg"), out) for n in ("\u00e9", "e\u0301"))
    refused(out, composed, decomposed, says="same name")


def test_a_folder_is_not_continued_with_other_settings_or_inputs(tmp_path: Path, source: Path) -> None:
    out, other = tmp_path / "out", source.with_name("b.jpg")
    other.write_bytes(b"photograph b")
    make(out, item(source, out), item(other, out))
    refused(
        out, item(source, out), item(other, out), says="theta 3 .now 4.*--overwrite", theta=4, resume=True
    )
    refused(out, item(source, out), says="'b.png' of theta 3", theta=4)  # the results would be mixed
    refused(out, item(source, out), says="'a.png' of refine", command="segment")
    source.write_bytes(b"another photograph")
    refused(out, item(source, out), says="made from other inputs")
    refused(out, item(source, out), says="made from other inputs", resume=True)
    assert make(out, item(source, out), overwrite=True) == 0
    third = source.with_name("c.jpg")
    third.write_bytes(b"photograph c")  # adding inputs is allowed
    assert make(out, item(source, out), item(other, out), item(third, out), resume=True) == 2


def test_each_changed_setting_is_named(tmp_path: Path, source: Path) -> None:
    out, recipe = tmp_path / "out", {"levels": (0.3, 0.05), "theta": 3}
    make(out, item(source, out), theta=recipe)
    said = r"of theta.theta 3 \(now 4\), theta.weight not given \(now on\);"
    refused(out, item(source, out), says=said, theta={**recipe, "theta": 4, "weight": True}, resume=True)


@pytest.mark.slow
def test_an_output_file_may_be_reused_for_other_sources(tmp_path: Path, source: Path) -> None:
    other = source.with_name("b.jpg")
    other.write_bytes(b"photograph b")
    make(tmp_path, item(source, tmp_path, "x.png"), whole=False)
    make(tmp_path, item(other, tmp_path, "x.png"), whole=False)
    refused(tmp_path, item(source, tmp_path, "x.png"), says="of refine", command="segment", whole=False)
    refused(
        tmp_path, item(source, tmp_path, "x.png"), says="made from other inputs", whole=False, resume=True
    )
    (tmp_path / "x.png").write_bytes(b"corrected by hand")
    refused(tmp_path, item(source, tmp_path, "x.png"), says="did not write", whole=False)
    out = tmp_path / "out"
    make(out, item(source, out, "x.png"))  # output to a folder, not to a named file
    refused(out, item(other, out, "x.png"), says="made from other inputs", whole=False)


def test_output_files_do_not_claim_their_folder(tmp_path: Path, source: Path) -> None:
    make(tmp_path, item(source, tmp_path, "x.png"), whole=False)
    make(tmp_path, item(source, tmp_path, "y.png"), theta=4, whole=False)
    make(tmp_path, item(source, tmp_path, "x.png"), theta=5, whole=False)
    assert make(tmp_path, item(source, tmp_path), theta=9) == 0


def test_a_killed_run_resumes_and_owns_only_what_it_wrote(tmp_path: Path, source: Path) -> None:
    out, other = tmp_path / "out", source.with_name("b.jpg")
    other.write_bytes(b"photograph b")
    items = [item(source, out), item(other, out)]
    (tmp_path / "out").mkdir()
    (out / "b.png").write_text("mine")
    pid = os.fork()
    if pid == 0:  # killed between two pictures: no cleanup
        with claim(out, "refine", {"theta": 3}, items, overwrite=True):
            (out / "a.png").write_text("ours")
            os._exit(9)
    os.waitpid(pid, 0)
    refused(out, *items, says="b.png.*did not write", resume=True)
    assert make(out, items[0], resume=True) == 1
    assert make(out, *items, overwrite=True) == 0 and make(out, *items, resume=True) == 2


def test_an_interrupted_rerun_with_other_settings_keeps_what_it_did_not_reach(
    tmp_path: Path, source: Path
) -> None:
    out, other = tmp_path / "out", source.with_name("b.jpg")
    other.write_bytes(b"photograph b")
    items = [item(source, out), item(other, out)]
    make(out, *items)
    with pytest.raises(KeyboardInterrupt), claim(out, "refine", {"theta": 4}, items):
        (out / "a.png").write_text("of 4")
        raise KeyboardInterrupt
    refused(out, *items, says="theta", theta=4, resume=True)  # b.png was made with theta 3
    assert make(out, *items, theta=4) == 0


def test_a_run_without_results_leaves_no_list(tmp_path: Path, source: Path) -> None:
    with claim(tmp_path / "out", "refine", {}, [item(source, tmp_path / "out")]):
        pass
    assert list((tmp_path / "out").iterdir()) == []


def test_names_keep_the_folders_where_stems_repeat(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in ("x/1.jpg", "y/1.jpg", "y/z/2.jpg"))
    assert result_names([a, c]) == [Path("1"), Path("2")]
    assert result_names([a, b, c]) == [Path("x/1"), Path("y/1"), Path("y/z/2")]
    assert result_names([a, a.with_suffix(".png")]) == [Path("1"), Path("1")]  # rejected by claim
    out = tmp_path / "out"
    for path in (a, b):
        path.parent.mkdir()
        path.write_bytes(path.parent.name.encode())
    items = [Item((p,), (out / f"{n}.png",)) for p, n in zip((a, b), result_names([a, b]), strict=True)]
    assert make(out, *items) == 0 and make(out, *items, resume=True) == 2
    assert (out / "x" / "1.png").is_file() and (out / "y" / "1.png").is_file()
    assert without_results([a, out / "x" / "1.png", out / "x" / "2.png"]) == [a, out / "x" / "2.png"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "crfrnn-results", "version": 9}', '{"a":' * 9999]
)
def test_a_damaged_list_is_one_worded_error(tmp_path: Path, source: Path, text: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MANIFEST).write_text(text)
    refused(tmp_path / "out", item(source, tmp_path / "out"), says="manifest")
    assert make(tmp_path / "out", item(source, tmp_path / "out"), overwrite=True) == 0


def test_the_list_is_small_json_that_names_settings_and_files(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"
    make(out, item(source, out), inputs=[source])
    held = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    (run,) = held["runs"].values()
    assert run == {"command": "refine", "settings": {"theta": 3}, "whole": True}
    assert list(held["files"]) == ["a.png"]
    assert Manifest.read(out).own("a.png") and not Manifest.read(out).own("b.png")


def test_the_identity_covers_all_of_a_small_file_and_samples_of_a_large_one(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(bytes(65536))
    large.write_bytes(bytes(2**20))
    before = identity(small), identity(large), identity(tmp_path)
    for path, place in ((small, 40001), (large, 2**20 - 1)):
        with path.open("r+b") as stream:
            stream.seek(place)
            stream.write(b"x")
    assert all(
        a != b for a, b in zip(before, (identity(small), identity(large), identity(tmp_path)), strict=True)
    )
    assert identity(tmp_path / "nothing") == ""


def test_undecodable_and_overlong_names(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"
    strange = os.fsdecode(b"caf\xe9")
    try:
        (tmp_path / strange).touch()
    except OSError:
        pytest.skip("no such names here")
    one = item(source, out, f"{strange}.png")
    assert make(out, one) == 0 and make(out, one, resume=True) == 1
    make(out, item(source, out, "x" * 251 + ".png"))
    refused(out, item(source, out, "x" * 252 + ".png"), says="at most 255 bytes, got 256")
    refused(out, item(source, out, "\u00e9" * 126 + ".png"), says="at most 255 bytes, got 256")


def test_a_run_does_not_start_among_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"of another network")
    names = ["log.csv", "model.safetensors"]
    with pytest.raises(FileError, match=r"one with 'model.safetensors' from elsewhere; name another"):
        check_new(tmp_path, names, "folder", "recipe.yaml")
    check_new(tmp_path / "new", names, "folder", "recipe.yaml")
    (tmp_path / "recipe.yaml").touch()
    check_new(tmp_path, names, "folder", "recipe.yaml")
