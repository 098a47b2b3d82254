# SPDX-License-Identifier: MIT
"""`crfrnn refine|segment|pseudo-labels` over shards, URLs, lists and packs, without a cluster."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as parquet
import pytest
from webdataset.compat import WebDataset
from webdataset.writer import TarWriter

from command_line import names, run
from crfrnn.bulk.shards import samples
from crfrnn.io import FileError
from toy import make_pictures

READ = ("--kind", "logits", "--layout", "lhw", "--no-panel")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures with unaries, in two shards that WebDataset wrote too, and their results in plain/."""
    root = make_pictures(tmp_path_factory.mktemp("bulk"), pictures=4)
    for shard in range(2):
        with TarWriter(str(root / f"s-{shard:03d}.tar")) as out:
            for k in (2 * shard, 2 * shard + 1):
                parts = {
                    "png": (root / f"images/p{k}.png").read_bytes(),
                    "npy": (root / f"unaries/p{k}.npy").read_bytes(),
                }
                out.write({"__key__": f"p{k}", **parts})
    assert run("refine", root / "images", "-u", root / "unaries", *READ, "-o", root / "plain")[0] == 0
    return root


def plain(root: Path, number: int) -> bytes:
    return (root / "plain" / f"p{number}.png").read_bytes()


def test_shards_to_files_equal_the_loop(root: Path, tmp_path: Path) -> None:
    assert run("refine", f"{root}/s-{{000..001}}.tar", "-u", ".npy", *READ, "-o", tmp_path / "o")[0] == 0
    for k in range(4):
        assert (tmp_path / "o" / f"s-{k // 2:03d}" / f"p{k}.png").read_bytes() == plain(root, k)


def test_written_shards_are_read_by_webdataset_and_reproducible(root: Path, tmp_path: Path) -> None:
    words = ("refine", root / "s-000.tar", root / "s-001.tar", "-u", "npy", *READ, "--to", "shards", "-o")
    assert run(*words, tmp_path / "a")[0] == run(*words, tmp_path / "b")[0] == 0
    assert names(tmp_path / "a") == ["s-000.tar", "s-001.tar"]
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    found = list(WebDataset(str(tmp_path / "a" / "s-001.tar"), shardshuffle=False))
    assert [(one["__key__"], one["png"]) for one in found] == [("p2", plain(root, 2)), ("p3", plain(root, 3))]


def test_a_list_of_paths_becomes_parquet(root: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{root}/images/p{k}.png\n" for k in (2, 0, 1)) + "\n# no picture\n")
    code, said, _ = run(
        "refine", f"@{listed}", "-u", root / "unaries", *READ, "--to", "parquet", "--shard-size", 2,
        "-o", tmp_path / "o",
    )  # fmt: skip
    assert code == 0 and "3 pictures done" in said
    assert names(tmp_path / "o") == ["part-000000.parquet", "part-000001.parquet"]
    rows = [
        row for name in names(tmp_path / "o") for row in parquet.read_table(tmp_path / "o" / name).to_pylist()
    ]
    assert [(row["key"], row["png"]) for row in rows] == [(f"p{k}", plain(root, k)) for k in range(3)]


def test_urls_in_memory(root: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for k in range(2):
        memory.pipe(f"/set/p{k}.png", (root / f"images/p{k}.png").read_bytes())
        memory.pipe(f"/logits/p{k}.npy", (root / f"unaries/p{k}.npy").read_bytes())
    words = ("refine", "memory://set", "-u", "memory://logits", *READ, "-o", tmp_path / "o")
    assert run(*words)[0] == 0
    assert names(tmp_path / "o") == ["p0.png", "p1.png"]
    assert all((tmp_path / "o" / f"p{k}.png").read_bytes() == plain(root, k) for k in range(2))
    code, said, _ = run(*words, "--skip-existing")
    assert code == 0 and "2 pictures already existed" in said


def test_an_output_url_is_refused_before_anything_is_made(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, errors = run(
        "refine", root / "images", "-u", root / "unaries", *READ, "-o", "s3://bucket/labels"
    )
    assert code == 2 and "-o 's3://bucket/labels': expected a local folder, got a URL" in errors
    assert names(tmp_path) == []


def test_failures_are_listed_skipped_and_retried(root: Path, tmp_path: Path) -> None:
    pictures, out = tmp_path / "images", tmp_path / "o"
    pictures.mkdir()
    for k in range(2):
        (pictures / f"p{k}.png").write_bytes((root / f"images/p{k}.png").read_bytes())
    whole = (pictures / "p1.png").read_bytes()
    (pictures / "p1.png").write_bytes(whole[:40])
    words = ("refine", f"file://{pictures}", "-u", f"file://{root}/unaries", *READ, "-o", out)
    code, _, errors = run(*words)
    assert code == 1 and "1 of 2 pictures failed" in errors
    (line,) = (out / "failed.jsonl").read_text().splitlines()
    assert json.loads(line)["picture"] == "p1.png" and "image" in json.loads(line)["reason"]
    (pictures / "p1.png").write_bytes(whole)
    code, said, errors = run(*words, "--skip-existing")  # not retried
    assert code == 1 and said.startswith("0 pictures done") and "1 of 2 pictures failed" in errors
    code, said, _ = run(*words, "--retry-failed")
    assert code == 0 and said.startswith("1 pictures done") and names(out) == ["p0.png", "p1.png"]
    assert (out / "p1.png").read_bytes() == plain(root, 1)


def test_a_pack_with_a_failed_picture_is_rewritten(root: Path, tmp_path: Path) -> None:
    shard, out = tmp_path / "s.tar", tmp_path / "o"
    picture, unary = (root / "images/p0.png").read_bytes(), (root / "unaries/p0.npy").read_bytes()
    write_tar(shard, {"p0.png": picture, "p0.npy": unary, "p1.png": picture[:40], "p1.npy": unary})
    words = ("refine", shard, "-u", "npy", *READ, "--to", "shards", "-o", out)
    assert run(*words)[0] == 1
    assert [sample.key for sample in samples(str(out / "s.tar"))] == ["p0"]
    assert json.loads((out / "failed.jsonl").read_text())["picture"] == "s/p1"
    code, said, _ = run(*words, "--retry-failed")  # the same failure, and the same shard
    assert code == 1 and said.startswith("1 pictures done")
    assert run(*words, "--skip-existing")[1].startswith("0 pictures done")


def test_another_job_in_the_folder_is_refused(root: Path, tmp_path: Path) -> None:
    words = ("refine", root / "s-000.tar", "-u", "npy", *READ, "--to", "shards", "-o", tmp_path / "o")
    assert run(*words)[0] == 0
    code, _, errors = run(*words, "-T", 2, "--skip-existing")
    assert code == 2 and "iterations not given (now 2)" in errors and "name another" in errors


def write_tar(path: Path, members: dict[str, bytes], **odd: object) -> None:
    with tarfile.open(path, "w") as out:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in odd.items():
                setattr(info, field, value)
            out.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("name", ["../p.png", "/p.png", "a/../../p.png", "a\\p.png", ".png"])
def test_member_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    write_tar(tmp_path / "s.tar", {"a.png": b"1", name: b"2"})
    with pytest.raises(FileError, match="expected names such as"):
        samples(str(tmp_path / "s.tar"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_members_other_than_files_are_refused(tmp_path: Path, kind: bytes) -> None:
    write_tar(tmp_path / "s.tar", {"a.png": b""}, type=kind, linkname="/etc/passwd")
    with pytest.raises(FileError, match="plain files"):
        samples(str(tmp_path / "s.tar"))


def test_shards_damaged_anywhere_are_refused(tmp_path: Path) -> None:
    place = tmp_path / "s.tar"
    write_tar(place, {f"{k}.png": np.full(700, k, np.uint8).tobytes() for k in range(3)})
    whole = place.read_bytes()
    assert len(samples(str(place))) == 3
    for length in (0, 100, 512, 900, 1536, 2048, 4000, 4608):
        place.write_bytes(whole[:length])
        with pytest.raises(FileError, match="shard"):
            samples(str(place))
    place.write_bytes(whole[:1536] + b"x" * 512 + whole[2048:])  # the second header
    with pytest.raises(FileError, match="damaged"):
        samples(str(place))


def test_separated_members_of_one_key_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", {"a.png": b"1", "b.png": b"2", "a.npy": b"3"})
    with pytest.raises(FileError, match="together"):
        samples(str(tmp_path / "s.tar"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--engine", "spark"), "--engine"),
        (("--actors", "2"), "expected --engine ray"),
        (("--to", "zip"), "--to"),
        (("--to", "shards", "--shard-size", "0"), "--shard-size"),
        (("--engine", "ray", "--num-cpus", "0"), "num-cpus"),
    ],
)
def test_wrong_options_are_reported_before_any_work(
    root: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    code, _, errors = run(
        "refine", root / "images", "-u", root / "unaries", *READ, "-o", tmp_path / "o", *words
    )  # fmt: skip
    assert code == 2 and said in errors and not (tmp_path / "o").exists()
