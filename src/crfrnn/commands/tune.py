# SPDX-License-Identifier: MIT
"""`crfrnn tune`: cross-validate bandwidths, weights and temperature."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from crfrnn.commands import common
from crfrnn.commands.fit import check_output, provenance, save_result
from crfrnn.commands.train import Settings, show_keys


def tune(
    root: common.Root,
    unaries: common.Unaries,
    output: Annotated[Path, typer.Option("--output", "-o", help="Parameter file to write.")],
    split: common.Split = "train",
    kind: common.Kind = "logits",
    layout: common.Layout = None,
    key: common.Key = None,
    labels: common.Labels = None,
    void: common.Void = None,
    limit: common.Limit = None,
    trials: Annotated[int | None, typer.Option("--trials", help="Total number of settings to try.")] = None,
    study: Annotated[
        Path | None, typer.Option("--study", help="File for the trials; resumed if it exists.")
    ] = None,
    folds: Annotated[
        int | None, typer.Option("--folds", help="Number of folds of the training pictures.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="mean_iu, trimap_iu, both (their mean) or loss.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of folds and trials.")] = None,
    prune: Annotated[bool | None, typer.Option("--prune/--no-prune", help="Stop bad trials early.")] = None,
    temperature: Annotated[
        bool, typer.Option("--temperature/--no-temperature", help="Also search a divisor of the unary.")
    ] = True,
    iterations: common.Iterations = None,
    quality: common.Quality = "default",
    settings: Settings = None,
    show: Annotated[bool, show_keys("TuneConfig")] = False,
    overwrite: common.Overwrite = False,
) -> None:
    """Search bandwidths and kernel weights as in the paper, with Optuna, on folds of the given pictures.

    Ctrl-C and SIGTERM save the best settings so far (exit codes 130 and 143); with --study the search can be
    resumed. FILE.db is SQLite, any other name a journal. `crfrnn fit --start` continues from the result.
    --show prints the defaults of all options.

    Example: crfrnn tune VOCdevkit --unaries logits/ --layout lhw --study trials.db -o tuned.safetensors
    """
    from crfrnn.io.outputs import Item, claim
    from crfrnn.lattice import keep_memory
    from crfrnn.training import TuneConfig
    from crfrnn.training import tune as tune_crf
    from crfrnn.training.config import configured, plain
    from crfrnn.training.tune import RANGES

    ranges = {name: limits for name, limits in RANGES.items() if temperature or name != "temperature"}
    layer = common.layer_settings(quality, iterations)
    config = configured(
        TuneConfig, settings or (), trials=trials, folds=folds, seed=seed, metric=metric, prune=prune,
        ranges=ranges, settings=layer,
    )  # fmt: skip
    check_output(output)
    keep_memory()
    data = common.dataset(root, split, limit, unaries, labels, void, kind=kind, layout=layout, key=key)
    goes_on = "repeat the command to resume" if study else "use --study FILE to make a search resumable"
    with (
        claim(
            output.parent, "tune", common.settings("study", "trials"), [Item((), (output,))],
            inputs=[study] if study else [], whole=False, replace=False, overwrite=overwrite,
        ),
        common.progress() as bar,
    ):  # fmt: skip
        try:
            result = tune_crf(data, config, study=study, report=common.epoch_report(bar))
        except KeyboardInterrupt:
            raise common.stopped(f"no trial was finished, so nothing is written; {goes_on}") from None
        figures = {"cross_validated": result.validation.figures(), "all_pictures": result.counts.figures()}
        how = {
            **plain(asdict(config)), "trials": len(result.trials), "numbers": result.numbers,
        }  # fmt: skip
        save_result(output, result, data, figures, provenance("tune", data, unaries, split, how))
    common.out.print(f"Best on all pictures: {common.figures_line(figures['all_pictures'])}")
    common.out.print(f"Cross-validated:      {common.figures_line(figures['cross_validated'])}")
    common.out.print(f"Parameters: {output}", markup=False)
    if result.interrupted:
        raise common.stopped(f"the best of {len(result.trials)} settings is saved; {goes_on}")
