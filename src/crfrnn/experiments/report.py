# SPDX-License-Identifier: MIT
"""The tables and figures of an experiment, from the rows in its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from crfrnn.datasets import PictureSet
from crfrnn.evaluation import METRICS, Evaluation, Evaluator, confusion_matrix, mean_iu_of_truth
from crfrnn.evaluation.tables import difference_lines, percent, table, write_csv
from crfrnn.experiments.plans import Plan, Row
from crfrnn.io import read_label_png
from crfrnn.io.files import write_text
from crfrnn.io.images import write_png
from crfrnn.io.parameters import load_parameters
from crfrnn.lattice.validate import warn
from crfrnn.plots import heat_map, rows_of_pictures, trimap_curves

Pair = tuple[str, str]
PANELS = 6  # number of best and worst pictures in a figure


def write_report(
    plan: Plan, folder: Path, val: PictureSet, num_labels: int, *, command: str = "",
    samples: int = 2000, seed: int = 0,
) -> Path:  # fmt: skip
    """Write NAME.md and its figures from the finished rows; missing rows are listed in it.

    Also written: ``NAME_scores.csv``, ``NAME_differences.csv``, ``NAME_labels.csv`` (IU per label),
    ``NAME_trimap.csv`` and ``.png``, ``NAME_mu.png`` of the main row, ``NAME_best.png`` and
    ``NAME_worst.png``: the largest gains and losses of the main row against the baseline.

    Args:
        command: the command line, for the header.
        samples, seed: settings of the bootstrap.

    Returns: the Markdown file. Raises: ValueError if no row is finished.
    """
    done = [row for row in plan.rows if (folder / "rows" / row.name / "row.json").is_file()]
    if not done:
        raise ValueError(f"rows: expected at least one finished in {str(folder / 'rows')!r}, got none")
    result = evaluate_rows(done, folder, val, num_labels)
    names = [row.name for row in done]
    base = plan.baseline if plan.baseline in names else names[0]
    options: dict[str, Any] = {"samples": samples, "seed": seed}
    text = [f"# {plan.name}", "", _head(plan, done, folder, command), ""]
    text.append(result.markdown(baseline=base if len(names) > 1 else None, **options))
    if plan.main in names and len(names) > 1 and plan.main != base:
        text += [f"`{plan.main}` minus each row, paired over pictures:", ""]
        text.append(_against(result, [(plan.main, o) for o in names if o != plan.main], options))
    twins = [(row.name, row.against) for row in done if row.against and row.against in names]
    if twins:
        text += ["Rows minus the row they differ from in one setting, paired over pictures:", ""]
        text.append(_against(result, twins, options))
    stem = folder / plan.name
    result.write_csv(f"{stem}_scores.csv", **options)
    result.write_curve_csv(f"{stem}_trimap.csv")
    write_csv(f"{stem}_labels.csv", _labels(result))
    pairs = [*compared(plan, names, base), *twins]
    write_csv(f"{stem}_differences.csv", difference_lines(result, pairs, options))
    try:
        text += ["", *_figures(result, plan, folder)]
    except ImportError as error:  # after hours of runs, write the tables even without figures
        warn(f"the trimap and the compatibility are not drawn: {error}; then repeat the command")
    if plan.main in names and base != plan.main:
        for word, ids in _extremes(result, plan.main, base).items():
            shown = [name for name in names if name in {base, "post-processing", plan.main}]
            write_png(_panel(ids, shown, folder, val, num_labels), f"{stem}_{word}.png")
            text.append(f"![{word}]({plan.name}_{word}.png)")
    path = Path(f"{stem}.md")
    write_text(path, "\n".join(text) + "\n")
    return path


def _figures(result: Evaluation, plan: Plan, folder: Path) -> list[str]:
    """Draw the trimap's curves and the main row's compatibility; returns the Markdown that shows them."""
    stem = folder / plan.name
    lines = {name: result.trimap_curve(name).tolist() for name in result.methods}
    write_png(trimap_curves(lines), f"{stem}_trimap.png")
    learned = folder / "rows" / plan.main / "crf.safetensors"
    if not learned.is_file():
        return [f"![trimap]({plan.name}_trimap.png)"]
    matrix = load_parameters(learned).crf.compatibility.detach().double().numpy()
    title = f"learned compatibility of {plan.main}"
    write_png(heat_map(matrix, result.class_names, title), f"{stem}_mu.png")
    return [f"![trimap]({plan.name}_trimap.png)", f"![compatibility]({plan.name}_mu.png)"]


def evaluate_rows(rows: list[Row], folder: Path, val: PictureSet, num_labels: int) -> Evaluation:
    """All rows on the same pictures, from their label maps."""
    evaluator = Evaluator(
        num_labels, class_names=val.class_names if len(val.class_names) == num_labels else ()
    )
    for item in val:
        evaluator.update(
            item.id, item.mask, {r.name: _map(folder, r.name, item.id, num_labels) for r in rows}
        )
    return evaluator.compute()


def _map(folder: Path, row: str, name: str, num_labels: int) -> Any:
    return read_label_png(folder / "rows" / row / "labels" / f"{name}.png", num_labels).astype(np.int64)


def _head(plan: Plan, done: list[Row], folder: Path, command: str) -> str:
    lines = ["| row | description | training | evaluation |", "|---|---|---:|---:|"]
    for row in done:
        about = json.loads((folder / "rows" / row.name / "row.json").read_text(encoding="utf-8"))
        run = folder / "runs" / row.run / "run.json"
        took = f"{json.loads(run.read_text(encoding='utf-8'))['seconds']:.0f} s" if run.is_file() else ""
        lines.append(f"| {row.name} | {row.title} | {took} | {about['seconds']:.0f} s |")
    missing = [row.name for row in plan.rows if row not in done]
    if missing:
        lines += ["", f"Not finished: {', '.join(missing)}."]
    if command:
        lines += ["", f"Made with `{command}`."]
    return "\n".join(lines)


def _against(result: Evaluation, pairs: Sequence[Pair], options: dict[str, Any]) -> str:
    found = ([result.difference(*pair, metric, **options).percent() for metric in METRICS] for pair in pairs)
    lines = ([f"{a} minus {b}", *cells] for (a, b), cells in zip(pairs, found, strict=True))
    return table(["rows", *(figure.title for figure in METRICS.values())], lines)


def _labels(result: Evaluation) -> list[list[str]]:
    lines = [["method", *result.class_names, "mean"]]
    for method in result.methods:
        figures = [*result.per_label_iu(method), result.score(method, "mean_iu")]
        lines.append([method, *map(percent, figures)])
    return lines


def compared(plan: Plan, names: Sequence[str], base: str) -> list[Pair]:
    """Every row against the baseline, then the main row against the others."""
    pairs = [(name, base) for name in names if name != base and base in names]
    if plan.main in names and plan.main != base:
        pairs += [(plan.main, other) for other in names if other not in (base, plan.main)]
    return pairs


def _extremes(result: Evaluation, main: str, base: str) -> dict[str, list[str]]:
    """The ids with the largest rise and fall of mean IU from the baseline to the main row."""
    ours, theirs = (mean_iu_of_truth(result.counts[m]["confusion"]) for m in (main, base))
    gain = np.nan_to_num(ours - theirs)
    order = np.argsort(-gain, kind="stable")
    best = [result.ids[i] for i in order[:PANELS]]
    return {"best": best, "worst": [result.ids[i] for i in order[::-1][:PANELS]]}


def _panel(
    ids: list[str], shown: list[str], folder: Path, val: PictureSet, num_labels: int
) -> Image.Image:  # fmt: skip
    rows = []
    for item in val.select(ids):
        maps = [_map(folder, name, item.id, num_labels) for name in shown]
        figures = [
            float(mean_iu_of_truth(confusion_matrix(item.mask, labels, num_labels))) for labels in maps
        ]
        said = ", ".join(f"{name} {100 * f:.1f}" for name, f in zip(shown, figures, strict=True))
        rows.append((f"{item.id}: {said}", item.image, [*maps, item.mask]))
    return rows_of_pictures(rows, [*shown, "truth"])
