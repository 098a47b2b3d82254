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
    trials: Annotated[int | None, typer.Option("--trials", help="Settings to try in all.")] = None,
    study: Annotated[
        Path | None, typer.Option("--study", help="File that keeps the trials; resumed if it is there.")
    ] = None,
    folds: Annotated[int | None, typer.Option("--folds", help="Parts of the training pictures.")] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="mean_iu, trimap_iu, both (their mean) or loss.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Folds and trials.")] = None,
    prune: Annotated[
        bool | None, typer.Option("--prune/--no-prune", help="Give bad trials up early.")
    ] = None,
    temperature: Annotated[
        bool, typer.Option("--temperature/--no-temperature", help="Search a divisor of the unary too.")
    ] = True,
    iterations: common.Iterations = None,
    quality: common.Quality = "default",
    settings: Settings = None,
    show: Annotated[bool, show_keys("TuneConfig")] = False,
    overwrite: common.Overwrite = False,
) -> None:
    """Search bandwidths and kernel weights as the paper does, with Optuna, on folds of the given pictures.

    Ctrl-C and SIGTERM save the best so far (exit code 130 and 143); with --study the search goes on where it
    stopped. SQLite for FILE.db, else a journal. `crfrnn fit --start` learns on from the result.
    What an option is when it is left out, --show says.

    Example: crfrnn tune VOCdevkit --unaries logits/ --layout lhw --study trials.db -o tuned.safetensors
    """
    from crfrnn.io.outputs import Item, claim
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
    data = common.dataset(root, split, limit, unaries, labels, void, kind=kind, layout=layout, key=key)
    goes_on = "the same command goes on" if study else "with --study FILE the next one would go on from here"
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
            raise common.stopped(
                f"no setting was tried to the end, so nothing is written; {goes_on}"
            ) from None
        figures = {"cross_validated": result.validation.figures(), "all_pictures": result.counts.figures()}
        how = {
            **plain(asdict(config)), "trials": len(result.trials), "numbers": result.numbers,
        }  # fmt: skip
        save_result(output, result, data, figures, provenance("tune", data, unaries, split, how))
    common.out.print(f"Best on all pictures: {common.figures_line(figures['all_pictures'])}")
    common.out.print(f"Cross-validated:      {common.figures_line(figures['cross_validated'])}")
    common.out.print(f"Parameters: {output}", markup=False)
    if result.interrupted:
        raise common.stopped(f"the best of {len(result.trials)} settings is kept; {goes_on}")
