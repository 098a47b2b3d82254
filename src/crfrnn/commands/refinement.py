# SPDX-License-Identifier: MIT
"""`crfrnn experiment refinement`: compare this and other refinement methods on one data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crfrnn.commands import common
from crfrnn.commands.experiment import (
    Output,
    ReportOnly,
    command_words,
    experiments,
    kept_when_interrupted,
    say,
)

if TYPE_CHECKING:
    from crfrnn.datasets import UnaryDataset
    from crfrnn.experiments import Source
    from crfrnn.inference import Predictor

SOURCES = ("given", "network", "coarse")


def refinement(
    root: common.Root,
    unary_files: common.Unaries,
    output: Output,
    split: common.Split = "train",
    val: Annotated[
        Path | None, typer.Option("--val", help="Folder of the evaluated pictures, if not in ROOT.")
    ] = None,
    val_split: Annotated[
        str, typer.Option("--val-split", help="Their list in a VOC development kit.")
    ] = "val",
    val_unaries: Annotated[
        str | None, typer.Option("--val-unaries", help="Their unaries, if not with the others.")
    ] = None,
    kind: common.Kind = "logits",
    layout: common.Layout = None,
    key: common.Key = None,
    labels: common.Labels = None,
    void: common.Void = None,
    sources: Annotated[
        list[str] | None,
        typer.Option("--source", help=f"Scores to refine: {', '.join(SOURCES)}; repeatable."),
    ] = None,
    methods: Annotated[
        list[str] | None, typer.Option("--method", help="Only this method; repeatable.")
    ] = None,
    trials: Annotated[int, typer.Option("--trials", help="Trials of each method's search.")] = 30,
    tune_pictures: Annotated[
        int, typer.Option("--tune-pictures", help="Search on this many training pictures.")
    ] = 60,
    fit_pictures: Annotated[
        int | None, typer.Option("--fit-pictures", help="Train on this many training pictures.")
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", help="Epochs of the learned CRF.")] = 2,
    params: Annotated[
        Path | None,
        typer.Option("--params", help="Parameter file instead of a CRF learned here, for the given scores."),
    ] = None,
    val_pictures: Annotated[
        int | None, typer.Option("--val-pictures", help="Evaluate only this many, spread evenly.")
    ] = None,
    limit: common.Limit = None,
    focus: Annotated[
        str | None, typer.Option("--focus", help="Label that GrabCut separates. Default: person, else 1.")
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", "-c", help="Network of that source; default: the packaged one."),
    ] = None,
    photographs: Annotated[
        list[Path] | None,
        typer.Option("--photo", help="Also draw every method on this photograph; repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of trials and order.")] = 0,
    report_only: ReportOnly = False,
) -> None:
    """Compare ways to refine scores along edges: search their parameters, evaluate and time them.

    No refinement, pydensecrf2, crfrnn with default, searched and learned parameters, RankSEG alone and after
    crfrnn, SLIC, guided filter, bilateral solver, PAMR, PAR, GrabCut, random walker. Each method's parameters
    are searched with equally many trials on ROOT's split; OUTPUT gets refinement.md with CSV, JSON and
    pictures. Repeat the command to resume. Needs the extra peers.

    Example: crfrnn experiment refinement VOCdevkit --unaries logits/ --layout lhw -o out

    Example: crfrnn experiment refinement VOCdevkit --unaries deeplab:u.npz --limit 8 --trials 3 -o short
    """
    from crfrnn.experiments import Refinement, RefinementConfig, draw_photographs, write_refinement
    from crfrnn.experiments.refiners import NAMES
    from crfrnn.inference import Predictor
    from crfrnn.lattice.validate import check_choice

    chosen = [check_choice("--source", name, SOURCES) for name in sources or SOURCES]
    options = {"kind": kind, "layout": layout, "key": key}
    train = common.dataset(root, split, limit, unary_files, labels, void, **options)
    judged = common.dataset(
        val or root, val_split, None, val_unaries or unary_files, train.num_labels, void, **options
    )
    ids = judged.pictures.some(common.check_limit(limit)).some(val_pictures).ids
    judged = judged.select(ids)
    number = label_number(focus, judged.pictures.class_names, train.num_labels)
    config = RefinementConfig(
        methods=tuple(methods or NAMES), trials=trials, tune_pictures=tune_pictures,
        fit_pictures=fit_pictures, epochs=epochs, seed=seed, focus=number,
    )  # fmt: skip
    needed = "network" in chosen or photographs
    predictor = Predictor.from_pretrained(checkpoint) if needed else None
    made = {name: _source(name, train, judged, params, predictor) for name in chosen}
    with common.task_bars(output / "progress.log") as progress:
        work = Refinement(made, output, config, say=say, progress=progress)
        if not report_only:
            with kept_when_interrupted(output):
                work.run()
    say(f"Report: {write_refinement(output, chosen, judged.pictures, command=command_words())}")
    if photographs and predictor is not None:
        home, path = output / chosen[0], output / "photographs.png"
        draw_photographs(photographs, predictor, home, number, path)
        say(f"Photographs: {path}")


def label_number(name: str | None, class_names: tuple[str, ...], num_labels: int) -> int:
    """A label by its name or number.

    >>> label_number("cat", ("background", "cat"), 2), label_number(None, (), 2)
    (1, 1)
    """
    if name is None:
        return class_names.index("person") if "person" in class_names else min(1, num_labels - 1)
    if name in class_names:
        return class_names.index(name)
    if not name.isdigit() or int(name) >= num_labels:
        known = ", ".join(class_names) or "names in the data"
        raise ValueError(f"--focus: expected a number below {num_labels}, or one of {known}, got {name!r}")
    return int(name)


def _source(
    name: str, train: UnaryDataset, judged: UnaryDataset, params: Path | None, predictor: Predictor | None
) -> Source:
    from crfrnn.datasets import UnaryDataset
    from crfrnn.experiments import CoarseLabels, NetworkScores, Source

    if name == "given":
        return Source(train, judged, params)
    both = []
    for data in (train, judged):
        if name == "coarse":
            scores = CoarseLabels(data.unaries)
        else:
            assert predictor is not None
            if predictor.num_labels != data.num_labels:
                raise ValueError(
                    f"--checkpoint: expected a network of {data.num_labels} labels, got "
                    f"{predictor.num_labels}; omit --source network"
                )
            scores = NetworkScores(predictor, data.pictures)
        both.append(UnaryDataset(data.pictures, scores, data.num_labels, cache_bytes=2**28))
    return Source(*both)


experiments.command("refinement")(common.reported(refinement))
