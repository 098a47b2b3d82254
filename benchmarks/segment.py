# SPDX-License-Identifier: MIT
"""Seconds of a 500×500 photograph from file to label map, and the CRF's share of them.

"file to labels" is `Predictor` on a JPEG file, with and without the CRF, after `keep_memory`, as in the
command; "network" and "CRF" are the two parts of its segmenter on a picture in memory, lattice included;
alternating in one run, medians. "command" is `crfrnn segment` from start to end, imports and overlay
included, the faster of two runs. Photographs: scikit-image's, resized. `--network fcn8s` (the paper's) or
another name has random weights: its labels are meaningless, but the CRF processes the same picture.

Run it alone on the machine: python benchmarks/segment.py
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from skimage import data

from crfrnn import CRFRNN, Predictor, Segmenter, _native, keep_memory
from crfrnn.evaluation.tables import write_csv
from crfrnn.inference import packaged_checkpoints
from crfrnn.io import read_image
from crfrnn.models import build_network, network_names
from engine import in_turn
from outputs import ready

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea")
SIZE = 500
LABELS = 21
HEADS = [
    "photograph",
    "file to labels, s",
    "without CRF, s",
    "network, s",
    "CRF, s",
    "CRF / network",
    "command, s",
]
Row = tuple[str, float, float, float, float, float, float]


def segmenter_and_name(checkpoint: str | None, network: str | None, folder: Path) -> tuple[Path | str, str]:
    """The argument of `from_pretrained`, and its name in the table."""
    if checkpoint is not None:
        return checkpoint, checkpoint
    names = packaged_checkpoints()
    if names and network is None:
        return names[0], names[0]
    torch.manual_seed(0)
    chosen = network or "lite"
    Segmenter(build_network(chosen, num_labels=LABELS), CRFRNN(LABELS)).save_pretrained(folder)
    return folder, f"{chosen}, random weights"


def measure(source: Path | str, folder: Path, runs: int, iterations: int | None) -> list[Row]:
    predictor = Predictor.from_pretrained(source, iterations=iterations)
    segmenter, crf = predictor.segmenter, predictor.segmenter.crf
    if crf is None:
        raise SystemExit("the checkpoint has no CRF: nothing to compare")
    rows: list[Row] = []
    for name in PHOTOGRAPHS:
        path = folder / f"{name}.jpg"
        Image.fromarray(getattr(data, name)()).resize((SIZE, SIZE)).save(path, quality=95)
        batch = torch.from_numpy(np.ascontiguousarray(read_image(path).transpose(2, 0, 1)))[None]
        with torch.no_grad():
            unary, guide = segmenter.unary(batch), segmenter.guide(batch)
            whole, plain, network, refinement = in_turn(
                [
                    lambda path=path: predictor(path),
                    lambda path=path: predictor(path, use_crf=False),
                    lambda batch=batch: segmenter.unary(batch),
                    lambda unary=unary, guide=guide: crf(unary, guide, iterations=iterations),
                ],
                runs,
            )
        started = command(source, path, iterations, min(runs, 2))
        rows.append((name, whole, plain, network, refinement, refinement / network, started))
    return rows


def command(source: Path | str, path: Path, iterations: int | None, runs: int) -> float:
    words = [sys.executable, "-m", "crfrnn.cli", "segment", path, "-o", path.parent / "out", "-c", source]
    words += [] if iterations is None else ["-T", iterations]
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run([str(word) for word in words], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkpoint", help="the package's own by default")
    parser.add_argument("--network", choices=network_names(), help="in its place, with random weights")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--iterations", type=int, help="of the CRF; the checkpoint's own by default")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/segment.csv"))
    arguments = parser.parse_args()
    ready(parser, arguments.output)
    keep_memory()  # as the command does
    torch.set_num_threads(arguments.threads)
    console = Console()
    with tempfile.TemporaryDirectory() as temporary, console.status("measuring, about a minute"):
        folder = Path(temporary)
        source, name = segmenter_and_name(arguments.checkpoint, arguments.network, folder / "network")
        rows = measure(source, folder, arguments.runs, arguments.iterations)
    versions = f"crfrnn {version('crfrnn')}, torch {torch.__version__}"
    machine = f"{platform.machine()}, {arguments.threads} threads, {_native.instruction_set()}"
    table = Table(*HEADS, title=f"{SIZE}×{SIZE}, {name}; {versions}; {machine}")
    for first, *seconds in rows:
        table.add_row(first, *(f"{v:.3f}" for v in seconds))
    console.print(table)
    head = [*HEADS, "checkpoint", "versions", "machine"]
    write_csv(arguments.output, [head, *([*row, name, versions, machine] for row in rows)])
    console.print(arguments.output)


if __name__ == "__main__":
    main()
