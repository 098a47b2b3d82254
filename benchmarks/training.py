# SPDX-License-Identifier: MIT
"""Seconds of a training step of DeepLab and its CRF, with and without `crfrnn.keep_memory`.

Four pictures of 417 × 417 pixels with 21 labels, T = 5, SGD; the network alone, with the CRF behind it, and
with its bandwidths learned too. Random pictures, whose colours change as slowly as those of a photograph.
Each measurement is a process of its own, since the allocator's settings last; both in turn, medians of all
steps but the first two of each process. The losses must be equal.

Run it alone on the machine: python benchmarks/training.py [--threads 2] [--rounds 3] [-o training.csv]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from crfrnn import CRFRNN, Segmenter, keep_memory
from crfrnn.evaluation.tables import write_csv
from crfrnn.models import DeepLab
from engine import machine_and_versions
from outputs import ready

PARTS = {"network": (False, False), "network and CRF": (True, False), "also bandwidths": (True, True)}
SIDE, LABELS, BATCH, STEPS, WARM = 417, 21, 4, 8, 2


class Run(NamedTuple):
    """Seconds of every step, page faults per step, the last loss, the peak of memory in MiB."""

    seconds: list[float]
    faults: float
    loss: float
    mib: float


def steps(part: str, threads: int, keep: bool) -> Run:
    """Train for some steps in this process."""
    import resource

    if keep and not keep_memory():
        raise SystemExit("keep_memory: expected the GNU C library and no MALLOC_… variables, got others")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    with_crf, theta = PARTS[part]
    crf = CRFRNN(LABELS, iterations=5) if with_crf else None
    segmenter = Segmenter(DeepLab(LABELS).to(memory_format=torch.channels_last), crf).train()
    for name, value in segmenter.named_parameters():
        value.requires_grad_(theta or "theta" not in name)
    optimiser = torch.optim.SGD([p for p in segmenter.parameters() if p.requires_grad], 1e-4)
    coarse = torch.rand(BATCH, 3, 14, 14) * 255
    picture = F.interpolate(coarse, (SIDE, SIDE), mode="bilinear").round()
    labels = F.interpolate(torch.randn(BATCH, LABELS, 7, 7), (SIDE, SIDE), mode="bilinear").max(1).indices
    seconds: list[float] = []
    loss = torch.zeros(())
    for number in range(STEPS):
        if number == WARM:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        begun = time.perf_counter()
        optimiser.zero_grad()
        loss = F.cross_entropy(segmenter(picture), labels)
        loss.backward()
        optimiser.step()
        seconds.append(time.perf_counter() - begun)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    faults = (usage.ru_minflt - before) / (STEPS - WARM)
    return Run(seconds[WARM:], faults, float(loss), usage.ru_maxrss / 1024)


def child(part: str, threads: int, keep: bool) -> Run:
    """`steps` in a new process."""
    words = [sys.executable, __file__, "--threads", str(threads), "--child", part, str(int(keep))]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        words, capture_output=True, text=True, env={**clean, "OMP_NUM_THREADS": str(threads)}
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return Run(*json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", "-o", type=Path, help="CSV")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(steps(given.child[0], given.threads, given.child[1] == "1")))
        return
    ready(parser, given.output)
    table = Table(
        "step of four pictures", "as usual, s", "kept, s", "ratio", "page faults", "kept", "peak, MiB", "kept"
    )
    lines = []
    for part in PARTS:
        runs: dict[bool, list[Run]] = {False: [], True: []}
        for _ in range(given.rounds):
            for keep, own in runs.items():
                own.append(child(part, given.threads, keep))
        if len({run.loss for own in runs.values() for run in own}) != 1:
            raise SystemExit(f"{part}: the losses differ")
        usual, kept = (median(value for run in own for value in run.seconds) for own in runs.values())
        faults = [median(run.faults for run in own) for own in runs.values()]
        peaks = [max(run.mib for run in own) for own in runs.values()]
        table.add_row(
            part, f"{usual:.2f}", f"{kept:.2f}", f"{usual / kept:.2f}",
            *(f"{value:,.0f}" for value in (*faults, *peaks)),
        )  # fmt: skip
        lines.append([part, given.threads, usual, kept, *faults, *peaks])
    Console().print(table)
    torch.set_num_threads(given.threads)
    print("; ".join(machine_and_versions()))
    if given.output:
        heads = [
            "part",
            "threads",
            "usual_seconds",
            "kept_seconds",
            "usual_faults",
            "kept_faults",
            "usual_mib",
            "kept_mib",
        ]
        write_csv(given.output, [heads, *lines])
        print(f"table {given.output}")


if __name__ == "__main__":
    main()
