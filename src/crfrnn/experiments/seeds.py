# SPDX-License-Identifier: MIT
"""One table over several seeds: means of the rows' figures, with bootstrap intervals over pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.datasets import PictureSet
from crfrnn.evaluation import METRICS, Evaluation, Interval
from crfrnn.evaluation.bootstrap import Runs, bootstrap, paired_bootstrap
from crfrnn.evaluation.tables import table, write_csv
from crfrnn.experiments.plans import Plan
from crfrnn.experiments.report import compared, evaluate_rows
from crfrnn.io.files import write_text

RUNS: tuple[Runs, Runs] = ("kept", "drawn")


def write_seeds(
    plan: Plan, folders: Mapping[int, Path], val: PictureSet, num_labels: int, output: Path, *,
    command: str = "", samples: int = 2000, seed: int = 0,
) -> Path:  # fmt: skip
    """Write NAME_seeds.md and NAME_seeds.csv from the rows that are finished for every seed.

    A figure is the mean over the seeds of the data set's figure. Its interval is the percentile bootstrap
    over pictures, with the same drawn pictures for every seed and row; it is for the networks of these seeds.
    A second interval draws the seeds as well, and the figures of the single seeds are listed too.

    Args:
        folders: folders of `Experiment` by seed, all of one plan and one set of pictures.
        output: the folder of the report.
        command: the command line, for the header.
        samples, seed: settings of the bootstrap.

    Returns: the Markdown file. Raises: ValueError unless two seeds have at least one finished row in common.
    """
    rows = [
        row
        for row in plan.rows
        if all((home / "rows" / row.name / "row.json").is_file() for home in folders.values())
    ]
    if len(folders) < 2 or not rows:
        raise ValueError(
            "folders: expected two seeds or more with a finished row in common, got "
            f"{len(folders)} with {len(rows)}"
        )
    results = {number: evaluate_rows(rows, folder, val, num_labels) for number, folder in folders.items()}
    names = [row.name for row in rows]
    options: dict[str, Any] = {"samples": samples, "seed": seed}
    pairs = compared(plan, names, plan.baseline)
    titles = [figure.title for figure in METRICS.values()]
    seeds = ", ".join(map(str, folders))
    own = ([name, *(_each(results, name, m) for m in METRICS)] for name in names)
    means = ([name, *(mean(results, name, m, **options).percent() for m in METRICS)] for name in names)
    differences = {
        runs: [
            [
                f"{a} minus {b}",
                *(mean_difference(results, a, b, m, runs=runs, **options).percent() for m in METRICS),
            ]
            for a, b in pairs
        ]
        for runs in RUNS
    }
    text = [f"# {plan.name}, seeds {seeds}", *([f"Made with `{command}`."] if command else [])]
    note = f"percent, [95 % bootstrap interval over the {len(val)} pictures]"
    text += [f"Mean over the seeds, {note}:", table(["row", *titles], means)]
    text += ["Differences, paired over pictures and seeds:", table(["rows", *titles], differences["kept"])]
    text += ["The same, with the seeds drawn as well as the pictures:"]
    text += [table(["rows", *titles], differences["drawn"])]
    text += [f"Each seed ({seeds}) separately:", table(["row", *titles], own)]
    write_csv(output / f"{plan.name}_seeds.csv", _lines(results, names, pairs, options))
    path = output / f"{plan.name}_seeds.md"
    write_text(path, "\n\n".join(text))
    return path


def mean(
    results: Mapping[int, Evaluation], method: str, metric: str, *, runs: Runs = "kept", **options: Any
) -> Interval:
    """The mean over seeds of a method's figure, with its bootstrap interval; see `bootstrap` for `runs`."""
    return bootstrap(_stacked(results, method, metric), METRICS[metric].function, runs=runs, **options)


def mean_difference(
    results: Mapping[int, Evaluation], method: str, baseline: str, metric: str, *, runs: Runs = "kept",
    **options: Any,
) -> Interval:  # fmt: skip
    """The mean over seeds of ``figure(method) - figure(baseline)``, on the same drawn pictures and runs."""
    ours, theirs = (_stacked(results, name, metric) for name in (method, baseline))
    return paired_bootstrap(ours, theirs, METRICS[metric].function, runs=runs, **options)


def _stacked(results: Mapping[int, Evaluation], method: str, metric: str) -> NDArray[Any]:
    """Counts [pictures, seeds, ...]."""
    return np.stack([result.counts[method][METRICS[metric].counts] for result in results.values()], 1)


def _each(results: Mapping[int, Evaluation], method: str, metric: str) -> str:
    return ", ".join(f"{100 * result.score(method, metric):.2f}" for result in results.values())


def _lines(
    results: Mapping[int, Evaluation],
    names: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    options: dict[str, Any],
) -> list[list[str]]:
    head = ["row", "minus", "metric", "mean", "low", "high", "low_drawn", "high_drawn"]
    out = [[*head, *(f"seed_{number}" for number in results)]]
    for method, base in [*((name, "") for name in names), *pairs]:
        for metric in METRICS:
            found, drawn = (
                mean_difference(results, method, base, metric, runs=runs, **options)
                if base
                else mean(results, method, metric, runs=runs, **options)
                for runs in RUNS
            )
            own = [r.score(method, metric) - (r.score(base, metric) if base else 0) for r in results.values()]
            numbers = [
                f"{100 * x:.4f}" for x in (found.value, found.low, found.high, drawn.low, drawn.high, *own)
            ]
            out.append([method, base, metric, *numbers])
    return out
