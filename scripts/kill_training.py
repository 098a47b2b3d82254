# SPDX-License-Identifier: MIT
"""Kill a training repeatedly (SIGKILL) and resume it: it must learn bit-identical weights.

    scripts/kill_training.py [--kills 20] [--seed 0]

A tiny network with dropout, running means, random changes of the pictures and data-loader workers is
trained in three stages by a recipe, with a checkpoint after every step. It is killed during a step, while a
checkpoint is written, just after that, during a validation, by the death of a loader's worker, or after a
random time, and then resumed by the same call. All files written are compared with those of an uninterrupted
run; exit status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from crfrnn.io.weights import read_safetensors
from crfrnn.training.checkpoint import StageFiles
from crfrnn.training.module import SegmentationModule
from crfrnn.training.recipe import Recipe
from crfrnn.training.train import train

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/helpers"))
KINDS = ("step", "half a checkpoint", "checkpoint", "validation", "worker", "clock")


def recipe(root: Path) -> Recipe:
    stages = [
        {"name": "plain", "crf": False, "learn": ["network", "head"], "epochs": 2, "workers": 1},
        {"name": "crf", "learn": ["crf"], "epochs": 2, "batch": 1, "accumulate": 2},
        {"name": "joint", "epochs": 3, "workers": 1},
    ]
    return import_module("toy_training").make(root, pictures=7, stages=stages, checkpoint_minutes=1e-9)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after(calls: int, owner: type, name: str, what: Any) -> None:
    """`what(arguments)` is called after the `calls`-th call of a method, or at its next one."""
    left, method = [calls], getattr(owner, name)

    def counted(*arguments: Any, **options: Any) -> Any:
        result = method(*arguments, **options)
        left[0] -= 1
        if left[0] <= 0:
            what(arguments)
        return result

    setattr(owner, name, counted)


def kill_half_written(arguments: tuple[Any, ...]) -> None:
    path = Path(arguments[1])
    os.truncate(path, path.stat().st_size // 2)
    die()


def kill_a_worker(_: object) -> None:
    for worker in multiprocessing.active_children():
        os.kill(worker.pid or 0, signal.SIGKILL)


def run(chosen: Recipe, folder: Path, kind: str | None, calls: int) -> None:
    """Run in a separate process."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    torch.set_num_threads(1)
    if kind == "step":
        after(calls, SegmentationModule, "training_step", lambda _: die())
    elif kind == "validation":
        after(calls, SegmentationModule, "validation_step", lambda _: die())
    elif kind == "checkpoint":
        after(calls, StageFiles, "_save", lambda _: die())
    elif kind == "half a checkpoint":
        after(calls, Trainer, "save_checkpoint", kill_half_written)
    elif kind == "worker":
        after(calls, SegmentationModule, "training_step", kill_a_worker)
    train(chosen, folder, trainer={"accelerator": "cpu"})


def left_by(folder: Path) -> dict[str, Any]:
    """Every file without the seconds of the logs; including temporary files."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content: Any = path.read_bytes()
        if path.suffix == ".safetensors":  # its metadata are in random order
            tensors, metadata = read_safetensors(path)
            content = {name: (v.dtype, v.shape, v.numpy().tobytes()) for name, v in tensors.items()}, metadata
        elif path.suffix == ".csv":
            lines = [line.split(b",") for line in content.splitlines()]
            column = lines[0].index(b"seconds")
            content = b"\n".join(b",".join(v for i, v in enumerate(line) if i != column) for line in lines)
        elif path.name == "done.json":
            continue  # the same log in another format
        found[str(path.relative_to(folder))] = content
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="in all (20); a run that ends is begun again")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    arguments = parser.parse_args()
    chance, context = random.Random(arguments.seed), multiprocessing.get_context("fork")
    killed: Counter[str] = Counter()
    kinds: list[str] = []
    runs, began = 0, time.monotonic()

    def attempt(chosen: Recipe, folder: Path, kind: str | None, calls: int) -> int:
        process = context.Process(target=run, args=(chosen, folder, kind, calls))
        process.start()
        if kind == "clock":
            process.join(chance.uniform(0.02, 2.0))
            process.kill()
        process.join()
        return process.exitcode or 0

    with tempfile.TemporaryDirectory(prefix="kill-training-") as place:
        root = Path(place)
        chosen = recipe(root)
        assert attempt(chosen, root / "alone", None, 0) == 0
        expected = left_by(root / "alone")
        while killed.total() < arguments.kills:
            folder, runs = root / f"run-{runs}", runs + 1
            while True:
                kinds = kinds or chance.sample(KINDS, len(KINDS))
                kind = kinds.pop() if killed.total() < arguments.kills else None
                calls = chance.randint(1, 6)
                code = attempt(chosen, folder, kind, calls)
                if code == 0:
                    break
                if kind is None or code not in (-signal.SIGKILL, 1) or (code == 1 and kind != "worker"):
                    print(f"ended with {code} where nothing was killed ({kind})")
                    return 1
                killed[kind] += 1
                print(f"kill {killed.total()}: {kind}, after {calls}", flush=True)
            found = left_by(folder)
            differ = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
            if differ:
                print(f"after {killed.total()} kills these differ: {', '.join(differ)}")
                return 1
    said = ", ".join(f"{count} {kind}" for kind, count in sorted(killed.items()))
    seconds = time.monotonic() - began
    print(f"{killed.total()} kills ({said}) in {runs} runs: {len(expected)} files equal, {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
