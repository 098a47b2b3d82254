# SPDX-License-Identifier: MIT
"""`crfrnn experiment unaries` and `unary-ablations`: the CRF alone, on unaries of a network that stays."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crfrnn.commands import common
from crfrnn.commands.experiment import (
    COUNTS,
    Output,
    ReportOnly,
    TestIterations,
    TrainIterations,
    ValPictures,
    counts,
    help_text,
    kept_when_interrupted,
    report,
    say,
)
from crfrnn.commands.experiment import experiments as experiments  # with this command in it
from crfrnn.commands.train import Settings

if TYPE_CHECKING:
    from crfrnn.datasets import UnaryDataset


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
        Path | None, typer.Option("--val", help="Where the val pictures are, if not in ROOT.")
    ] = None,
    val_split: Annotated[str, typer.Option("--val-split", help="Its list in a VOC development kit.")] = "val",
    val_unaries: Annotated[
        str | None, typer.Option("--val-unaries", help="Its unaries, if not with the others.")
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
        int | None, typer.Option("--long-side", help="Reduce pictures, truths and unaries to this.")
    ] = None,
    rows: Annotated[
        list[str] | None, typer.Option("--row", help="Only this row; as often as you like.")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Of every fit.")] = None,
    trials: Annotated[
        int, typer.Option("--trials", help="Of the cross-validation; 0: the package's numbers.")
    ] = 30,
    tune_pictures: Annotated[
        int | None, typer.Option("--tune-pictures", help="Cross-validate on so many of them.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Folds, trials and order.")] = 0,
    iterations: common.Iterations = None,
    quality: common.Quality = "default",
    fit_settings: Settings = None,
    train_iterations: TrainIterations = COUNTS,
    test_iterations: TestIterations = COUNTS,
    report_only: ReportOnly = False,
) -> None:
    """Learn nothing but the CRF, as `HELP` says of each; the name of the command chooses the plan."""
    from crfrnn.crf.validate import check_choice
    from crfrnn.experiments import UnaryExperiment, unaries, unary_ablations
    from crfrnn.training import FitConfig, TuneConfig
    from crfrnn.training.config import configured
    from crfrnn.training.train import some_of

    check_choice("--judge-on", judge_on, ("val", "held-out"))
    options = {"void": void, "kind": kind, "layout": layout, "key": key, "long_side": long_side}
    data = _dataset(root, split, limit, unary_files, labels, **options)
    if judge_on == "held-out":
        train, judged = data.hold_out(hold_out, seed)
    else:
        more = val_unaries or unary_files
        train, judged = data, _dataset(val or root, val_split, None, more, data.num_labels, **options)
    judged = judged.select(some_of(judged.pictures, val_pictures).ids)
    # An epoch chosen on a small fold would be one more thing in which fits differ: all go to the end.
    config = configured(FitConfig, fit_settings or (), epochs=epochs, seed=seed, select="last")
    settings: dict[str, Any] = {"quality": quality}
    if iterations is not None:
        settings["iterations"] = common.check_iterations(iterations)
    if context.info_name == "unaries":
        plan = unaries(config)
    else:
        steps = iterations if iterations is not None else 5
        plan = unary_ablations(config, steps, *counts(train_iterations, test_iterations))
    plan = plan.only(rows) if rows else plan
    with common.task_bars(output / "progress.log") as progress:
        work = UnaryExperiment(
            train, judged, output, tuning=TuneConfig(trials=trials, seed=seed), tune_pictures=tune_pictures,
            crf=settings, say=say, progress=progress,
            about={"fit": asdict(config), "unaries": Path(unary_files.removeprefix("deeplab:")).name,
                   "long_side": long_side},
        )  # fmt: skip
        if not report_only:
            with kept_when_interrupted(output):
                work.run(plan)
        report(plan, output, judged.pictures, judged.num_labels)


HELP = {
    "unaries": """Table 1 on given unaries alone: their argmax, a CRF behind it, and a learned one.

    The rows are the argmax of the unaries, default numbers, cross-validated numbers, learned, and a control,
    compared on pictures that nothing was learned from.

    Example: crfrnn experiment unaries VOCdevkit --unaries logits/ --layout lhw -o out
    """,
    "unary-ablations": """What each part of the CRF brings on the unaries that are given.

    Learns nothing but the CRF, from the same start every time: T in training and in test, compatibility,
    weights, bandwidths, normalisation, loss. --judge-on held-out leaves val unseen. OUTPUT may be that of
    `crfrnn experiment unaries`.

    Example: crfrnn experiment unary-ablations VOCdevkit --unaries deeplab:u.npz --judge-on held-out -o out
    """,
}
for _name, _help in HELP.items():
    experiments.command(_name, help=help_text(_help))(common.reported(unary_experiment))


def _dataset(
    root: Path, split: str, limit: int | None, spec: str, labels: int | None, *, void: int | None,
    long_side: int | None, **options: Any,
) -> UnaryDataset:  # fmt: skip
    """`common.dataset`, with pictures, truths and unaries reduced if that is asked for."""
    from crfrnn.datasets import ReducedUnaries, UnaryDataset, reduced

    if long_side is None:
        return common.dataset(root, split, limit, spec, labels, void, **options)
    found, count = common.labelled(root, split, limit, labels, void)
    source = common.unary_source(spec, num_labels=count, unknown=void, **options)
    return UnaryDataset(reduced(found, long_side), ReducedUnaries.of(source, found), count)
