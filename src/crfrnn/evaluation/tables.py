# SPDX-License-Identifier: MIT
"""An evaluation as CSV and Markdown, in percent."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from crfrnn.evaluation.metrics import METRICS
from crfrnn.io.files import PathLike, atomic

if TYPE_CHECKING:
    from crfrnn.evaluation.evaluate import Evaluation


def write_csv(path: PathLike, lines: Iterable[Sequence[Any]]) -> None:
    rows = list(lines)
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)


def score_lines(result: Evaluation, intervals: bool, options: dict[str, Any]) -> Iterable[list[str]]:
    header: list[str] = []
    for row in result.rows():
        line: dict[str, str] = {}
        for name, value in row.items():
            line[name] = value if name == "method" else percent(value, 4)
            if intervals and name in METRICS:
                found = result.interval(row["method"], name, **options)
                line[f"{name}_low"], line[f"{name}_high"] = percent(found.low, 4), percent(found.high, 4)
        if not header:
            header = ["pictures", "trimap_width", *line]
            yield header
        yield [str(len(result.ids)), str(result.trimap_width), *line.values()]


def curve_lines(result: Evaluation) -> Iterable[list[str]]:
    curves = [result.trimap_curve(method) for method in result.methods]
    yield ["width", *result.methods]
    for width, values in enumerate(zip(*curves, strict=True), start=1):
        yield [str(width), *(percent(value, 4) for value in values)]


def difference_lines(
    result: Evaluation, pairs: Iterable[tuple[str, str]], options: dict[str, Any], subtracted: str = "minus"
) -> Iterable[list[str]]:
    """Every figure of the first method of a pair minus the second's; `subtracted` heads the second column."""
    yield ["method", subtracted, "metric", "difference", "low", "high", "clear_of_zero"]
    for method, other in pairs:
        for metric in METRICS:
            found = result.difference(method, other, metric, **options)
            numbers = (f"{100 * share:.4f}" for share in (found.value, found.low, found.high))
            yield [method, other, metric, *numbers, str(found.clear_of_zero).lower()]


def markdown(result: Evaluation, intervals: bool, baseline: str | None, options: dict[str, Any]) -> str:
    titles = [figure.title for figure in METRICS.values()]
    parts = [
        table(["method", *titles], (_score_cells(result, m, intervals, options) for m in result.methods))
    ]
    if baseline is not None:
        others = [m for m in result.methods if m != baseline]
        rows = (
            [m, *(result.difference(m, baseline, x, **options).percent() for x in METRICS)] for m in others
        )
        parts.append(f"Difference to {_cell(baseline)}:\n\n" + table(["method", *titles], rows))
    labels = ([m, *(percent(v, 1) for v in result.per_label_iu(m))] for m in result.methods)
    parts.append("IU per label:\n\n" + table(["method", *result.class_names], labels))
    note = f"{len(result.ids)} pictures; percent; trimap of {result.trimap_width} pixels"
    among, of = len(result.true_labels), len(result.class_names)
    note += f"; means over the {among} of {of} labels that occur in the truth, the same for every method"
    if any(math.isnan(result.score(method, "trimap_iu")) for method in result.methods):
        note += "; no trimap figures: a trimap surrounds void pixels, and the truth has none"
    if intervals or baseline is not None:
        level = options.get("level", 0.95)
        note += f"; [{100 * level:g} % bootstrap interval over pictures]"
    return "\n".join([*parts, note + "."]) + "\n"


def _score_cells(result: Evaluation, method: str, intervals: bool, options: dict[str, Any]) -> list[str]:
    if intervals:
        return [method, *(result.interval(method, metric, **options).percent() for metric in METRICS)]
    return [method, *(percent(result.score(method, metric), missing="–") for metric in METRICS)]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown; all columns but the first are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join("| " + " | ".join(map(_cell, line)) + " |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def percent(value: float, digits: int = 2, missing: str = "") -> str:
    """In percent, or `missing` if there was nothing to measure."""
    return missing if math.isnan(value) else f"{100 * value:.{digits}f}"
