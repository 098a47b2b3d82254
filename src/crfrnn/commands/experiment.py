# SPDX-License-Identifier: MIT
"""`crfrnn experiment`: the paper's Table 1 and its ablations, one resumable command each."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from crfrnn.commands import common
from crfrnn.commands.train import (
    Accelerator,
    Devices,
    RecipeName,
    Settings,
    Strategy,
    interrupted,
)
from crfrnn.experiments import Experiment, ablations, table1, write_report
from crfrnn.training.recipe_files import load_recipe
from crfrnn.training.run_files import Interrupted


def experiment(
    name: Annotated[str, typer.Argument(help="table1 or ablations.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder; the same again goes on with what is missing.")
    ],
    recipe: RecipeName = "cpu-small",
    settings: Settings = None,
    hold_out: Annotated[
        float, typer.Option("--hold-out", help="Share of the training pictures for cross-validation.")
    ] = 0.1,
    trials: Annotated[
        int, typer.Option("--trials", help="Of the cross-validation; 0: the recipe's numbers.")
    ] = 30,
    tune_pictures: Annotated[
        int | None, typer.Option("--tune-pictures", help="At most so many of those held out.")
    ] = 40,
    val_pictures: Annotated[
        int | None, typer.Option("--val-pictures", help="Judge so many of val only, to try things out.")
    ] = None,
    train_iterations: Annotated[
        str, typer.Option("--train-iterations", help="T in training, for ablations.")
    ] = "1,5,10",
    test_iterations: Annotated[
        str, typer.Option("--test-iterations", help="T in test, for ablations.")
    ] = "1,5,10",
    device: Annotated[str, typer.Option("--device", help="Where rows are judged: cpu, cuda.")] = "cpu",
    keep_networks: Annotated[
        bool,
        typer.Option(
            "--keep-networks/--no-keep-networks", help="Keep networks' weights when all rows are done."
        ),
    ] = True,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Only write the report of the rows that are done.")
    ] = False,
    accelerator: Accelerator = "auto",
    devices: Devices = 1,
    strategy: Strategy = "auto",
) -> None:
    """Train, judge and compare: OUTPUT/table1.md or OUTPUT/ablations.md with CSV files and figures.

    table1: the plain network, a cross-validated CRF behind it, end to end, and two controls. ablations: T in
    training and in test, compatibility, weights, bandwidths, normalisation, loss. Both may share one OUTPUT.

    Example: crfrnn experiment table1 --recipe cpu-small -s data.root=data -o table1

    Example: crfrnn experiment ablations -r mine.yaml --train-iterations 1,5 -o table1
    """  # fmt: skip
    chosen = load_recipe(recipe, settings or ())
    if name == "table1":
        plan = table1(chosen)
    elif name == "ablations":
        counts = (
            _counts("--train-iterations", train_iterations),
            _counts("--test-iterations", test_iterations),
        )
        plan = ablations(chosen, *counts)
    else:
        raise ValueError(f"name: expected table1 or ablations, got {name!r}")
    common.new_folder(output)
    with common.progress() as bar:
        tasks: dict[str, Any] = {}

        def progress(what: str, done: int, total: int) -> None:
            for other in [task for task in tasks if task != what]:
                bar.remove_task(tasks.pop(other))
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        work = Experiment(
            chosen, output, hold_out=hold_out, trials=trials, tune_pictures=tune_pictures,
            val_pictures=val_pictures, device=device,
            trainer={"accelerator": accelerator, "devices": devices, "strategy": strategy},
            say=lambda line: common.out.print(line, markup=False), progress=progress,
        )  # fmt: skip
        try:
            if not report_only:
                work.run(plan)
        except Interrupted as stopped:
            raise typer.Exit(interrupted(stopped)) from None
        except KeyboardInterrupt:
            common.out.print(f"Interrupted; finished rows are in {output / 'rows'}.", markup=False)
            raise typer.Exit(common.INTERRUPTED) from None
        words = shlex.join(["crfrnn", *sys.argv[1:]])
        path = write_report(plan, output, work.val, work.sets.num_labels, command=words)
    if not keep_networks and not report_only:
        for file in output.glob("runs/**/model.safetensors"):
            file.unlink()
    common.out.print(f"Report: {path}", markup=False)


def _counts(option: str, text: str) -> list[int]:
    try:
        return [common.check_iterations(int(word)) for word in text.split(",")]
    except ValueError as error:
        raise ValueError(f"{option}: expected whole numbers with commas, got {text!r}") from error
