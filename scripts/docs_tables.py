# SPDX-License-Identifier: MIT
"""Pages from CSV files: what the benchmarks wrote last, and the published accuracy."""

from __future__ import annotations

import csv
from pathlib import Path

NO_RUN = (
    "No benchmark was run in this checkout before the documentation was built. `make bench` writes "
    "`benchmarks/results/engine.csv`, and the next `make docs` shows it here. Published figures: "
    "[engine](engine.md)."
)


def write(pages: Path, results: Path, benchmarks: Path) -> None:
    """Write benchmarks.md from every CSV of `benchmarks`, and accuracy.md from those of `results`."""
    lines = ["# Benchmarks of this checkout", ""]
    files = sorted(benchmarks.glob("*.csv")) if benchmarks.is_dir() else []
    if not files:
        lines.append(NO_RUN)
    for file in files:
        lines += [f"## {file.stem}", "", *table(file), ""]
    (pages / "benchmarks.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    lines = [
        "# Accuracy, all figures",
        "",
        "From the CSV files in `docs/results`, as the experiments wrote them. What they mean and how they "
        "were made: [accuracy on real pictures](results.md), [experiments](experiments.md).",
        "",
    ]
    for file in sorted(results.rglob("*.csv")):
        if file.stem.endswith(("_scores", "_differences", "_labels", "_seeds")) or file.parent == results:
            lines += [f"## {file.relative_to(results).with_suffix('').as_posix()}", "", *table(file), ""]
    (pages / "accuracy.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def table(file: Path) -> list[str]:
    """A CSV file as lines of a Markdown table.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.csv"
    >>> _ = path.write_text("x,y\\n1,a|b\\n")
    >>> table(path)
    ['| x | y |', '|---|---|', '| 1 | a&#124;b |']
    """
    with file.open(encoding="utf-8", newline="") as stream:
        rows = [[cell.replace("|", "&#124;") for cell in row] for row in csv.reader(stream) if row]
    if not rows:
        return ["(empty)"]
    width = len(rows[0])
    lines = [f"| {' | '.join((row + [''] * width)[:width])} |" for row in rows]
    return [lines[0], "|" + "---|" * width, *lines[1:]]
