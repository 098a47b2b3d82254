# SPDX-License-Identifier: MIT
"""Time by the number of labels, alternating with pydensecrf2 in one run: python benchmarks/labels.py

Inputs as in engine.py, with as many regions as labels: 21 (VOC), 40 (NYU), 60 (Pascal Context), 81 (COCO),
150 (ADE20K). The forward pass has T = 10, the step (forward and backward, all gradients but those of the
bandwidths) T = 5.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from crfrnn.evaluation.tables import write_csv
from engine import forward, forward_backward, in_turn, machine_and_versions, peer, photograph_and_logits
from outputs import ready


def measure(case: str, labels: int, runs: int) -> tuple[float, float, float]:
    """Seconds of our forward pass, of pydensecrf2's, and of our step."""
    image, logits = photograph_and_logits("astronaut", 500, labels=labels)
    ours, theirs, step = in_turn(
        [
            lambda: forward(case, image, logits, 10),
            lambda: peer(case, image, logits, 10),
            lambda: forward_backward(case, image, logits, 5),
        ],
        runs,
    )
    return ours, theirs, step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=int, nargs="+", default=[21, 40, 60, 81, 150])
    parser.add_argument("--case", default="demo", choices=["demo", "readme"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/labels.csv"))
    arguments = parser.parse_args()
    ready(parser, arguments.output)
    machine, versions = machine_and_versions()
    console = Console()
    head = ["labels", "forward s", "pydensecrf2 s", "step s", "case", "versions", "machine"]
    rows: list[tuple[float, ...]] = []
    for labels in track(arguments.labels, "measuring", console=console):
        rows.append((labels, *measure(arguments.case, labels, arguments.runs)))
        write_csv(arguments.output, [head, *([*row, arguments.case, versions, machine] for row in rows)])
    title = f"{versions}; {machine}; {arguments.case}"
    table = Table("labels", "forward, s", "pydensecrf2, s", "ratio", "step, s", title=title)
    for labels, ours, theirs, step in rows:
        table.add_row(str(labels), f"{ours:.2f}", f"{theirs:.2f}", f"{theirs / ours:.1f}", f"{step:.2f}")
    console.print(table)
    console.print(arguments.output)


if __name__ == "__main__":
    main()
