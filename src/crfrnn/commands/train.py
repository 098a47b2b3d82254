# SPDX-License-Identifier: MIT
"""`crfrnn train`: train a segmenter by a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crfrnn import signals
from crfrnn.commands import common

if TYPE_CHECKING:
    from crfrnn.training.run_files import Interrupted

RecipeName = Annotated[
    str,
    typer.Option(
        "--recipe",
        "-r",
        help="cpu-fcn8s, cpu-small, deeplab, deeplab-fresh, default, paper, or a YAML file.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="KEY=VALUE of the configuration, such as seed=3; repeatable."),
]
Accelerator = Annotated[str, typer.Option("--accelerator", help="auto, cpu, cuda, … (Lightning's).")]
Devices = Annotated[int, typer.Option("--devices", help="Processes, one device each.")]
Strategy = Annotated[str, typer.Option("--strategy", help="auto, ddp, … (Lightning's).")]


def show_keys(name: str) -> Any:
    """The option `--show`, which prints the keys of a configuration of `crfrnn.training` and exits."""

    def show(asked: bool) -> None:
        if asked:
            from crfrnn import training
            from crfrnn.training.config import described

            common.out.print(described(getattr(training, name)), markup=False)
            raise typer.Exit

    said = "Print every key of -s with its default, and exit."
    return typer.Option("--show", is_eager=True, callback=common.reported(show), help=said)


def train(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the run; repeat the command to resume.")
    ] = None,
    recipe: RecipeName = "cpu-small",
    settings: Settings = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print the recipe with its settings, and exit.")
    ] = False,
    accelerator: Accelerator = "auto",
    devices: Devices = 1,
    strategy: Strategy = "auto",
) -> None:
    """Train a network and a CRF together, stage by stage.

    Ctrl-C or SIGTERM stops after the current step; repeat the command to resume, bit for bit. OUTPUT gets
    the segmenter (model.safetensors, config.json), the one of the best epoch by validation (best/),
    log.csv, recipe.yaml, and a folder per stage.

    Example: crfrnn train --recipe cpu-small -s data.root=data -o run

    Example: crfrnn train --recipe mine.yaml -s stages.joint.epochs=5 -o run
    """  # fmt: skip
    from crfrnn.lattice import keep_memory
    from crfrnn.training.config import text_of
    from crfrnn.training.recipe import load_recipe
    from crfrnn.training.run_files import Interrupted
    from crfrnn.training.train import read_sets
    from crfrnn.training.train import train as run_recipe

    chosen = load_recipe(recipe, settings or ())
    if show:
        common.out.print(text_of(chosen), markup=False)
        return
    if output is None:
        raise ValueError(
            "--output: expected the folder of the run, got none; use -o FOLDER, or --show to print the recipe"
        )
    options = {"accelerator": accelerator, "devices": devices, "strategy": strategy}
    keep_memory()
    try:
        with common.task_bars(output / "progress.log") as progress:
            sets = read_sets(chosen, progress)
            done = run_recipe(chosen, output, sets=sets, say=_say, progress=progress, trainer=options)
    except Interrupted as stopped:
        raise typer.Exit(interrupted(stopped)) from None
    except KeyboardInterrupt:
        raise common.stopped(f"repeat the command to resume from {output}") from None
    common.out.print(f"Log: {done.folder / 'log.csv'}", markup=False)
    if done.best_line is not None:
        best, last = done.best_line, done.history[-1]
        _say(f"Best epoch by validation: {_epoch(best)}: {done.best}")
        _say(f"Last epoch: {_epoch(last)}")
    common.out.print(f"Segmenter: {done.folder}", markup=False)


def _epoch(line: Mapping[str, Any]) -> str:
    return f"{line['epoch']} of {line['stage']}, mean IU {100 * line['val_mean_iu']:.2f} (val)"


def interrupted(stopped: Interrupted) -> int:
    """Print where the checkpoint is and how to resume; returns the exit status."""
    kept = (
        f"progress is saved in {stopped.checkpoint}. Repeat the command to resume."
        if stopped.checkpoint.exists()
        else "nothing was learned yet. Repeat the command to start again."
    )
    common.out.print(f"Interrupted ({signals.name()}); {kept}", markup=False)
    return signals.status()


def _say(line: str) -> None:
    common.out.print(line, markup=False)
