# SPDX-License-Identifier: MIT
"""`crfrnn experiment`: the paper's Table 1 and its ablations, for whole networks or on given unaries."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crfrnn import signals
from crfrnn.commands import common
from crfrnn.commands.train import (
    Accelerator,
    Devices,
    RecipeName,
    Settings,
    Strategy,
    interrupted,
)

if TYPE_CHECKING:
    from crfrnn.datasets import PictureSet, UnaryDataset
    from crfrnn.experiments import Plan

experiments = typer.Typer(
    no_args_is_help=True, help="Reproduce the paper's tables, one resumable command each."
)

Output = Annotated[Path, typer.Option("--output", "-o", help="Folder; repeat the command to resume.")]
TrainIterations = Annotated[str, typer.Option("--train-iterations", help="T in training, for ablations.")]
TestIterations = Annotated[str, typer.Option("--test-iterations", help="T in test, for ablations.")]
ReportOnly = Annotated[
    bool, typer.Option("--report-only", help="Only write the report of the finished rows.")
]
ValPictures = Annotated[
    int | None, typer.Option("--val-pictures", help="Evaluate only this many, for a trial run.")
]
COUNTS = "1,5,10"


def recipe_experiment(
    context: typer.Context,
    output: Output,
    recipe: RecipeName = "cpu-small",
    settings: Settings = None,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", help="Several, such as 0,1,2: each in OUTPUT/seedN, and their mean."),
    ] = None,
    hold_out: Annotated[
        float, typer.Option("--hold-out", help="Share of the training pictures for cross-validation.")
    ] = 0.1,
    trials: Annotated[
        int, typer.Option("--trials", help="Trials of the cross-validation; 0: the recipe's parameters.")
    ] = 30,
    tune_pictures: Annotated[
        int | None, typer.Option("--tune-pictures", help="Largest number of held-out pictures.")
    ] = 40,
    val_pictures: ValPictures = None,
    judge_on: Annotated[
        str, typer.Option("--judge-on", help="val, or held-out: pictures not used for any choice.")
    ] = "val",
    train_iterations: TrainIterations = COUNTS,
    test_iterations: TestIterations = COUNTS,
    device: Annotated[str, typer.Option("--device", help="Device of the evaluation: cpu, cuda.")] = "cpu",
    keep_networks: Annotated[
        bool,
        typer.Option(
            "--keep-networks/--no-keep-networks", help="Keep the networks' weights after all rows are done."
        ),
    ] = True,
    report_only: ReportOnly = False,
    accelerator: Accelerator = "auto",
    devices: Devices = 1,
    strategy: Strategy = "auto",
) -> None:
    """Train, evaluate and compare, as described in `HELP`; the command's name selects the plan."""
    from crfrnn.experiments import NetworkExperiment, ablations, table1, write_seeds
    from crfrnn.lattice import keep_memory
    from crfrnn.training.recipe import load_recipe

    chosen = load_recipe(recipe, settings or ())
    numbers = [chosen.seed] if seeds is None else _counts("--seeds", seeds, 0)
    if len(numbers) > 1 and judge_on != "val":
        raise ValueError("--seeds: expected --judge-on val, got held-out; each seed holds out other pictures")
    if context.info_name == "table1":
        plans = {number: table1(chosen.changed(seed=number)) for number in numbers}
    else:
        steps = counts(train_iterations, test_iterations)
        plans = {number: ablations(chosen.changed(seed=number), *steps) for number in numbers}
    homes = {number: output if seeds is None else output / f"seed{number}" for number in numbers}
    keep_memory()
    with common.task_bars(output / "progress.log") as progress:
        for number, plan in plans.items():
            work = NetworkExperiment(
                chosen.changed(seed=number), homes[number], hold_out=hold_out, trials=trials,
                tune_pictures=tune_pictures, val_pictures=val_pictures, judge_on=judge_on, device=device,
                trainer={"accelerator": accelerator, "devices": devices, "strategy": strategy},
                say=say, progress=progress,
            )  # fmt: skip
            if not report_only:
                with kept_when_interrupted(homes[number]):
                    work.run(plan)
            report(plan, homes[number], work.judged, work.num_labels)
            if len(homes) > 1 and number == numbers[-1]:
                made = write_seeds(plan, homes, work.judged, work.num_labels, output, command=command_words())
                say(f"Mean over seeds: {made}")
    if not keep_networks and not report_only:
        for file in output.glob("**/runs/**/model.safetensors"):
            file.unlink()


HELP = {
    "table1": """Table 1 of the paper: the plain network, a CRF after it, and both trained together.

    The rows are the plain network, a cross-validated CRF after it, end to end, and two controls. OUTPUT gets
    table1.md with CSV files and figures; `crfrnn experiment ablations` may share it.

    Example: crfrnn experiment table1 --recipe cpu-small -s data.root=data -o table1

    Example: crfrnn experiment table1 --seeds 0,1,2 -s data.root=data -o table1
    """,
    "ablations": """The contribution of each part of the CRF when it is trained with the network.

    Varies T in training and in test, compatibility, weights, bandwidths, normalisation and loss. OUTPUT gets
    ablations.md with CSV files and figures; it may be the folder of `crfrnn experiment table1`, whose
    networks are then reused.

    Example: crfrnn experiment ablations -r mine.yaml --train-iterations 1,5 -o table1
    """,
}


def unary_experiment(
    context: typer.Context,
    root: common.Root,
    unary_files: common.Unaries,
    output: Output,
    split: common.Split = "train",
    judge_on: Annotated[
        str, typer.Option("--judge-on", help="val, or held-out: a fold of the training pictures.")
    ] = "val",
    val: Annotated[
        Path | None, typer.Option("--val", help="Folder of the val pictures, if not in ROOT.")
    ] = None,
    val_split: Annotated[
        str, typer.Option("--val-split", help="Their list in a VOC development kit.")
    ] = "val",
    val_unaries: Annotated[
        str | None, typer.Option("--val-unaries", help="Their unaries, if not with the others.")
    ] = None,
    hold_out: Annotated[
        float, typer.Option("--hold-out", help="Share of the training pictures in that fold.")
    ] = 0.2,
    kind: common.Kind = "logits",
    layout: common.Layout = None,
    key: common.Key = None,
    labels: common.Labels = None,
    void: common.Void = None,
    limit: common.Limit = None,
    val_pictures: ValPictures = None,
    long_side: Annotated[
        int | None, typer.Option("--long-side", help="Scale pictures, truths and unaries down to this.")
    ] = None,
    rows: Annotated[list[str] | None, typer.Option("--row", help="Only this row; repeatable.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Epochs of every fit.")] = None,
    trials: Annotated[
        int, typer.Option("--trials", help="Trials of the cross-validation; 0: default parameters.")
    ] = 30,
    tune_pictures: Annotated[
        int | None, typer.Option("--tune-pictures", help="Cross-validate on this many of them.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Folds, trials and order.")] = 0,
    iterations: common.Iterations = None,
    quality: common.Quality = "default",
    settings: Settings = None,
    train_iterations: TrainIterations = COUNTS,
    test_iterations: TestIterations = COUNTS,
    report_only: ReportOnly = False,
) -> None:
    """Train only the CRF, as described in `UNARY_HELP`; the command's name selects the plan."""
    from crfrnn.experiments import UnaryExperiment, unaries, unary_ablations
    from crfrnn.lattice import keep_memory
    from crfrnn.lattice.validate import check_choice
    from crfrnn.training import FitConfig, TuneConfig
    from crfrnn.training.config import configured

    check_choice("--judge-on", judge_on, ("val", "held-out"))
    options = {"void": void, "kind": kind, "layout": layout, "key": key, "long_side": long_side}
    keep_memory()
    data = _dataset(root, split, limit, unary_files, labels, **options)
    if judge_on == "held-out":
        train, judged = data.hold_out(hold_out, seed)
    else:
        more = val_unaries or unary_files
        train, judged = data, _dataset(val or root, val_split, None, more, data.num_labels, **options)
    judged = judged.select(judged.pictures.some(val_pictures).ids)
    # Selecting an epoch on a small fold would add noise to the comparison, so all fits run to the end.
    config = configured(FitConfig, ["select=last", *(settings or ())], epochs=epochs, seed=seed)
    layer = common.layer_settings(quality, iterations)
    if context.info_name == "unaries":
        plan = unaries(config)
    else:
        steps = iterations if iterations is not None else 5
        plan = unary_ablations(config, steps, *counts(train_iterations, test_iterations))
    plan = plan.only(rows) if rows else plan
    with common.task_bars(output / "progress.log") as progress:
        work = UnaryExperiment(
            train, judged, output, tuning=TuneConfig(trials=trials, seed=seed), tune_pictures=tune_pictures,
            crf=layer, say=say, progress=progress,
            about={"fit": config, "unaries": Path(unary_files.removeprefix("deeplab:")).name,
                   "long_side": long_side},
        )  # fmt: skip
        if not report_only:
            with kept_when_interrupted(output):
                work.run(plan)
        report(plan, output, judged.pictures, judged.num_labels)


UNARY_HELP = {
    "unaries": """Table 1 on given unaries: their argmax, a CRF after them, and a learned CRF.

    The rows are the argmax of the unaries, default, cross-validated and learned parameters, and a control,
    compared on pictures not used for training.

    Example: crfrnn experiment unaries VOCdevkit --unaries logits/ --layout lhw -o out
    """,
    "unary-ablations": """The contribution of each part of the CRF on given unaries.

    Trains only the CRF, always from the same start, varying T in training and in test, compatibility,
    weights, bandwidths, normalisation and loss. With --judge-on held-out, val stays unseen. OUTPUT may be the
    folder of `crfrnn experiment unaries`.

    Example: crfrnn experiment unary-ablations VOCdevkit --unaries deeplab:u.npz --judge-on held-out -o out
    """,
}


def help_text(text: str) -> str:
    """The text with each paragraph on one line."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


for _command, _helps in ((recipe_experiment, HELP), (unary_experiment, UNARY_HELP)):
    for _name, _help in _helps.items():
        experiments.command(_name, help=help_text(_help))(common.reported(_command))


def say(line: str) -> None:
    common.out.print(line, markup=False)


@contextmanager
def kept_when_interrupted(output: Path) -> Iterator[None]:
    """On Ctrl-C or SIGTERM, report what is kept and exit with the signal's status."""
    from crfrnn.training.run_files import Interrupted

    try:
        yield
    except Interrupted as stopped:
        raise typer.Exit(interrupted(stopped)) from None
    except KeyboardInterrupt:
        say(
            f"Interrupted ({signals.name()}); finished rows are in {output / 'rows'}. "
            "Repeat the command to continue with the others."
        )
        raise typer.Exit(signals.status()) from None


def report(plan: Plan, output: Path, judged: PictureSet, num_labels: int) -> None:
    """Write the report with the command line that made it, and print its path."""
    from crfrnn.experiments import write_report

    say(f"Report: {write_report(plan, output, judged, num_labels, command=command_words())}")


def command_words() -> str:
    """The current command line, for reports."""
    return shlex.join(["crfrnn", *sys.argv[1:]])


def counts(train: str, test: str) -> tuple[list[int], list[int]]:
    """T in training and T in test, from comma-separated whole numbers."""
    return _counts("--train-iterations", train), _counts("--test-iterations", test)


def _counts(option: str, text: str, least: int = 1) -> list[int]:
    try:
        found = list(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError:
        found = []
    if not found or min(found) < least:
        raise ValueError(
            f"{option}: expected comma-separated whole numbers of at least {least}, got {text!r}"
        )
    return found


def _dataset(
    root: Path, split: str, limit: int | None, spec: str, labels: int | None, *, void: int | None,
    long_side: int | None, **options: Any,
) -> UnaryDataset:  # fmt: skip
    """`common.dataset`, with pictures, truths and unaries scaled down if requested."""
    from crfrnn.datasets import ReducedUnaries, UnaryDataset, reduced

    if long_side is None:
        return common.dataset(root, split, limit, spec, labels, void, **options)
    found, count = common.labelled(root, split, limit, labels, void)
    source = common.unary_source(spec, num_labels=count, unknown=void, **options)
    return UnaryDataset(reduced(found, long_side), ReducedUnaries(source, found), count)
