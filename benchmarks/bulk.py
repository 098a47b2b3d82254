# SPDX-License-Identifier: MIT
"""Pictures per second of `--engine ray` with one and two actors, alternating, and their ratio: efficiency.

python benchmarks/bulk.py [pictures] [rounds]   (on an otherwise idle machine, or the ratio means little)
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from crfrnn import CRFRNN  # noqa: F401  (the native module is loaded before the clock runs)
from crfrnn.bulk import Planner, RayEngine, Work, find, run
from crfrnn.inference.pseudo import LabelStep, cam_crf

SIDE = 320


def main(pictures: int = 40, rounds: int = 3) -> None:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200 * 2**20)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        _pictures(root, pictures)
        step = LabelStep(cam_crf("irn"))
        rates: dict[int, list[float]] = {1: [], 2: []}
        for number in range(rounds):
            for actors in rates:
                rates[actors].append(_rate(root, step, actors, pictures, f"{number}-{actors}"))
                print(f"actors {actors}: {rates[actors][-1]:.2f} pictures a second", flush=True)
    one, two = (median(rates[actors]) for actors in (1, 2))
    print(f"{SIDE}x{SIDE}, medians of {rounds}: {one:.2f} and {two:.2f} a second, ratio {two / one / 2:.2f}")
    ray.shutdown()


def _pictures(root: Path, count: int) -> None:
    random = np.random.default_rng(0)
    for folder in ("images", "maps"):
        (root / folder).mkdir()
    for k in range(count):
        image = random.integers(0, 255, (SIDE // 8, SIDE // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(image).save(root / "images" / f"{k}.png")
        maps = {f"{label}": random.random((SIDE, SIDE), np.float32) for label in (3, 7)}
        np.savez(root / "maps" / f"{k}.npz", keys=np.array([4, 8]), high_res=np.stack(list(maps.values())))


def _rate(root: Path, step: LabelStep, actors: int, pictures: int, name: str) -> float:
    """Without the first and last tenth, in which actors start, or have nothing left to do."""

    def pair(words: object) -> dict[Path, tuple[Path, ...]]:
        return {Path(f"{k}"): (root / f"images/{k}.png", root / f"maps/{k}.npz") for k in range(pictures)}

    planner = Planner(step, root / name, "files", 1, frozenset({".png"}), pair, str(root / "maps"), (".npz",))
    plan = planner.plan(find([str(root / "images")], {".png"}, False))
    tally = run(
        plan, Work(step, "files", None, frozenset({".png"})), root / name, "pseudo-labels", step.record(),
        engine=RayEngine(actors),
    )  # fmt: skip
    assert tally.done == pictures, tally.problems()
    moments = sorted(path.stat().st_mtime for path in (root / name).glob("*.png"))
    tenth = pictures // 10
    return (pictures - 1 - 2 * tenth) / (moments[-1 - tenth] - moments[tenth])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
