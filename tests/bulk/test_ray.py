# SPDX-License-Identifier: MIT
"""`--engine ray` on a cluster of two workers: the same bytes, whichever process is killed."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from command_line import names, run
from toy import make_pictures

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow
READ = ("--kind", "logits", "--layout", "lhw", "--no-panel")
KILLS = int(os.environ.get("CRFRNN_KILLS", "3"))  # of workers
PICTURES = 8 * KILLS


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures whose inference takes a noticeable time, with unaries, and their results in plain/."""
    root = make_pictures(tmp_path_factory.mktemp("ray"), pictures=1)
    image = np.asarray(Image.open(root / "images/p0.png")).repeat(8, 0).repeat(8, 1)
    unary = np.load(root / "unaries/p0.npy").repeat(8, 1).repeat(8, 2)
    for k in range(PICTURES):
        Image.fromarray(np.roll(image, 5 * k, 1)).save(root / f"images/p{k}.png")
        np.save(root / f"unaries/p{k}.npy", np.roll(unary, 5 * k, 2))
    assert run(*words(root, "plain"))[0] == 0
    return root


def words(root: Path, out: str) -> tuple[object, ...]:
    return ("refine", root / "images", "-u", root / "unaries", *READ, "-T", 10, "-o", root / out)


def results(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names(folder) if name.endswith(".png")}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        num_cpus=2, include_dashboard=False, object_store_memory=200 * 2**20, log_to_driver=False,
        logging_level="ERROR",
    )  # fmt: skip
    yield ray
    ray.shutdown()


def workers() -> list[int]:
    """The actors of this process's cluster, which are children of its raylet."""
    session = Path(ray._private.worker._global_node.get_session_dir_path()).name
    found = []
    for place in Path("/proc").iterdir():
        try:
            title = (place / "cmdline").read_text() if place.name.isdigit() else ""
            log = os.readlink(place / "fd/1") if title.startswith("ray::") else ""
        except OSError:
            continue
        if "_Actor" in title and session in log:
            found.append(int(place.name))
    return found


def test_workers_killed_at_random_moments_lose_nothing(root: Path, cluster: Any) -> None:
    random, stop, killed = np.random.default_rng(0), threading.Event(), []

    def kill() -> None:
        # Also during their start, where few are killed: the whole run may take less than a second.
        while not stop.wait(random.uniform(0.02, 0.13 * KILLS)) and len(killed) < KILLS:
            there = workers()
            if there:
                killed.append(int(random.choice(there)))
                os.kill(killed[-1], signal.SIGKILL)

    (root / "killed").mkdir()
    thread = threading.Thread(target=kill)
    thread.start()
    try:
        code, said, errors = run(*words(root, "killed"), "--engine", "ray", "--actors", 2)
    finally:
        stop.set()
        thread.join()
    assert killed, "the run was over before a worker could be killed"
    print(f"{len(killed)} workers killed, {PICTURES} pictures")
    assert code == 0 and f"{PICTURES} pictures done" in said, said + errors
    assert results(root / "killed") == results(root / "plain")
    assert not list((root / "killed").glob("*.tmp")) and not (root / "killed" / "failed.jsonl").exists()


def test_a_job_that_kills_its_process_is_the_only_one_lost(cluster: Any) -> None:
    """Also as a part of a list, and of a longer piece of work that is repeated from its start."""
    import ray.cloudpickle

    from crfrnn.bulk import RayEngine, attempts
    from crfrnn.inference.workers import Result

    def call(jobs: list[int]) -> list[Result]:
        for job in jobs:
            for name in (f"{job} first", f"{job} second"):
                if attempts.begun(name) > attempts.MOST:
                    return [Result(job, error=name) for job in jobs]
                if name == "5 second":
                    os.kill(os.getpid(), signal.SIGKILL)
        return [Result(job, value=job**2) for job in jobs]

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        results = list(RayEngine(2)(call, [range(k, k + 3) for k in range(0, 60, 3)]))
    finally:
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert sorted(result.job for result in results) == list(range(60))
    assert [result.error for result in results if result.error] == ["5 second"]
    assert all(result.value == result.job**2 for result in results if not result.error)


def test_records_are_dropped_once_the_driver_has_the_results(cluster: Any) -> None:
    import ray.cloudpickle

    from crfrnn.bulk import RayEngine
    from crfrnn.inference.workers import Result

    def call(jobs: list[int]) -> list[Result]:
        return [Result(job, value=bytes(10_000)) for job in jobs]

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        results: Any = RayEngine(2)(call, [[k] for k in range(400)])
        taken = [next(results).job for _ in range(400)]
        groups, held = cluster.get(results.gi_frame.f_locals["journal"].held.remote())
        assert not list(results)
    finally:
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert sorted(taken) == list(range(400))
    assert groups <= 1 and held < 51 * 10_100  # of at least 40 groups, of at most 50 jobs


def test_a_closed_group_is_repeated_without_results() -> None:
    from crfrnn.bulk.engine import _Journal

    journal = _Journal()
    assert journal.opened(3) == (1, [], False)
    journal.record(3, 2, b"results of two jobs")
    assert journal.opened(3) == (2, [(2, b"results of two jobs")], False) and journal.held() == (1, 19)
    journal.close(3, 2)
    assert journal.held() == (0, 0)
    _, parts, closed = journal.opened(3)
    assert closed and [jobs for jobs, _ in parts] == [0, 0]
    assert all(pickle.loads(part) == [] for _, part in parts)


def test_packs_of_actors_hold_the_same_pictures(root: Path, cluster: Any) -> None:
    from crfrnn.bulk.shards import samples

    broken = root / "images" / "q.png"
    broken.write_bytes(b"nothing")
    try:
        code, said, _ = run(
            *words(root, "packs"), "--engine", "ray", "--actors", 2, "--to", "shards", "--shard-size", 7
        )
    finally:
        broken.unlink()
    assert code == 1 and f"{PICTURES} pictures done" in said
    assert json.loads((root / "packs/failed.jsonl").read_text())["picture"] == f"part-{PICTURES // 7:06d}/q"
    found = {}
    for shard in sorted((root / "packs").glob("*.tar")):
        for sample in samples(str(shard)):
            offset, size = sample.members["png"]
            assert sample.key not in found
            found[f"{sample.key}.png"] = shard.read_bytes()[offset : offset + size]
    assert found == results(root / "plain")


def settled(folder: Path) -> int:
    """The number of results when no more are written: actors end a moment after their killed driver."""
    before, now = -1, 0
    while now != before:
        before, now = now, len(list(folder.glob("p*.png")))
        time.sleep(1.5)
    return now


def test_a_killed_driver_resumes(root: Path) -> None:
    """Also for Ctrl-C after that, which leaves no temporary file."""
    command = [sys.executable, "-m", "crfrnn", *map(str, words(root, "driver")), "--engine", "ray"]
    command += ["--actors", "2", "--skip-existing"]
    for number, ends in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        before = settled(root / "driver")
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while len(list((root / "driver").glob("p*.png"))) < before + 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(60) == ends
    before = {path: path.stat().st_mtime_ns for path in (root / "driver").glob("p*.png")}
    assert 6 <= len(before) < PICTURES
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert results(root / "driver") == results(root / "plain")
    assert not list((root / "driver").glob(".crfrnn-*.tmp"))
