# SPDX-License-Identifier: MIT
"""Pages from CSV files: the latest results of the benchmarks, the published accuracy, trimap curves."""

from __future__ import annotations

import csv
from pathlib import Path

from crfrnn.evaluation import METRICS
from crfrnn.io.images import write_png
from crfrnn.plots import trimap_curves

Rows = list[dict[str, str]]
NO_RUN = (
    "No benchmark was run in this checkout before the documentation was built. `make bench` writes "
    "`benchmarks/results/engine.csv`, and the next `make docs` shows it here. Published figures: "
    "[engine](engine.md)."
)
ABOUT = (
    "From the CSV files in `docs/results`, as the experiments wrote them: percent, with 95 % bootstrap "
    "intervals over pictures, differences paired, bold where clear of zero. What they mean: "
    "[accuracy on real pictures](results.md), [experiments](experiments.md)."
)
FIRST = ("voc_person", "unaries-val/unaries", "table1/table1")
KINDS = ("scores", "differences", "seeds", "trimap", "labels")


def write(pages: Path, results: Path, benchmarks: Path) -> None:
    """Write benchmarks.md from every CSV of `benchmarks`, and accuracy.md from those of `results`."""
    lines = ["# Benchmarks of this checkout", ""]
    files = sorted(benchmarks.glob("*.csv")) if benchmarks.is_dir() else []
    if not files:
        lines.append(NO_RUN)
    for file in files:
        lines += [f"## {file.stem}", "", *table(file), ""]
    (pages / "benchmarks.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (pages / "accuracy.md").write_text("\n".join(_accuracy(pages, results)) + "\n", encoding="utf-8")


def _accuracy(pages: Path, results: Path) -> list[str]:
    found: dict[str, dict[str, Path]] = {}
    for file in sorted(results.rglob("*.csv")):
        name = file.relative_to(results).with_suffix("").as_posix()
        stem, _, kind = name.rpartition("_")
        if kind in KINDS:
            found.setdefault(stem, {})[kind] = file
        elif {"method", "mean_iu"} <= set(next(iter(read(file)), {})):
            found.setdefault(name, {})["scores"] = file
    lines = ["# Accuracy, all figures", "", ABOUT, ""]
    for name in [*(name for name in FIRST if name in found), *sorted(set(found) - set(FIRST))]:
        lines += [f"## {name}", ""]
        for kind in KINDS:
            if kind in found[name]:
                lines += [*_shown(kind, found[name][kind], name, pages), ""]
    return lines


def _shown(kind: str, file: Path, name: str, pages: Path) -> list[str]:
    rows = read(file)
    if kind == "scores":
        return scores(rows)
    if kind in ("differences", "seeds"):
        return differences(rows)
    if kind == "labels":
        return [f"IU of every label, `{name}`:", "", *table(file)]
    target = pages / "assets" / "trimap" / f"{name.replace('/', '-')}.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    lines = {head: [float(row[head] or "nan") / 100 for row in rows] for head in rows[0] if head != "width"}
    write_png(trimap_curves(lines), target)
    return [f"![Trimap curves of {name}](assets/trimap/{target.name})"]


def scores(rows: Rows) -> list[str]:
    """A line per method with its interval for every metric.

    >>> scores([{"method": "a", "mean_iu": "67.36", "mean_iu_low": "60.15", "mean_iu_high": "70.5"}])
    ['| | mean IU |', '|---|---:|', '| a | 67.4 [60.1, 70.5] |']
    """
    named = [metric for metric in METRICS if metric in rows[0]]
    lines = [
        [row["method"], *(_interval(row[m], row.get(f"{m}_low"), row.get(f"{m}_high")) for m in named)]
        for row in rows
    ]
    return _table(["", *(METRICS[metric].title for metric in named)], lines)


def differences(rows: Rows) -> list[str]:
    """A line per pair of methods, a column per metric; bold where the interval excludes 0.

    >>> differences([{"row": "a", "minus": "b", "metric": "mean_iu", "mean": "2", "low": "1", "high": "3"}])
    ['| | mean IU |', '|---|---:|', '| a minus b | **2.0 [1.0, 3.0]** |']
    """
    named = [metric for metric in METRICS if any(row["metric"] == metric for row in rows)]
    lines: dict[str, dict[str, str]] = {}
    for row in rows:
        first = row.get("method") or row.get("row")
        minus = row.get("minus") if first else row.get("learned minus")
        pair = f"{first or 'learned'} minus {minus}" if minus else str(first)
        cell = _interval(row.get("difference") or row.get("mean"), row["low"], row["high"])
        if minus and row["low"] and (float(row["low"]) > 0 or float(row["high"]) < 0):
            cell = f"**{cell}**"
        lines.setdefault(pair, {})[row["metric"]] = cell
    cells = [[pair, *(found.get(metric, "") for metric in named)] for pair, found in lines.items()]
    return _table(["", *(METRICS[metric].title for metric in named)], cells)


def table(file: Path) -> list[str]:
    """A CSV file as lines of a Markdown table.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.csv"
    >>> _ = path.write_text("x,y\\n1,a|b\\n")
    >>> table(path)
    ['| x | y |', '|---|---:|', '| 1 | a&#124;b |']
    """
    rows = read(file)
    return _table(list(rows[0]), [list(row.values()) for row in rows]) if rows else ["(empty)"]


def read(file: Path) -> Rows:
    """The lines of a CSV file as mappings."""
    with file.open(encoding="utf-8", newline="") as stream:
        return [{k: v or "" for k, v in row.items() if k is not None} for row in csv.DictReader(stream)]


def _table(heads: list[str], lines: list[list[str]]) -> list[str]:
    cells = [" | ".join(cell.replace("|", "&#124;") for cell in line) for line in [heads, *lines]]
    head, *rest = (f"| {line} |".replace("|  |", "| |", 1) for line in cells)
    return [head, "|---|" + "---:|" * (len(heads) - 1), *rest]


def _interval(value: str | None, low: str | None, high: str | None) -> str:
    if not value:
        return ""
    said = [f"{round(float(number), 1) + 0.0:.1f}" for number in (value, low, high) if number]  # no -0.0
    return f"{said[0]} [{said[1]}, {said[2]}]" if len(said) == 3 else said[0]
