# SPDX-License-Identifier: MIT
"""`crfrnn fit`: train a CRF on unaries and masks."""

from __future__ import annotations

import platform
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crfrnn.commands import common
from crfrnn.commands.train import Settings, show_keys

if TYPE_CHECKING:
    from crfrnn.crf import CRFRNN
    from crfrnn.datasets import UnaryDataset
    from crfrnn.training import FitResult, TuneResult


def fit(
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
    start: Annotated[
        Path | None, typer.Option("--start", help="Parameter file to start from, such as tune's.")
    ] = None,
    preset: common.Preset = None,
    label_weights: Annotated[
        str, typer.Option("--label-weights", help="Weights per kernel: vector or matrix.")
    ] = "vector",
    iterations: common.Iterations = None,
    quality: common.Quality = "default",
    epochs: Annotated[int | None, typer.Option("--epochs", help="Maximum number of epochs.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="Pictures per step.")] = None,
    folds: Annotated[
        int | None, typer.Option("--folds", help="Number of folds of the training pictures.")
    ] = None,
    fold: Annotated[int | None, typer.Option("--fold", help="The fold that is held out.")] = None,
    all_folds: Annotated[
        bool, typer.Option("--all-folds", help="Fit once per fold, save the mean of the parameters.")
    ] = False,
    patience: Annotated[
        int | None, typer.Option("--patience", help="Stop after this many epochs without improvement.")
    ] = None,
    select: Annotated[
        str | None, typer.Option("--select", help="Held-out figure: mean_iu, trimap_iu, both, loss; or last.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of folds and order.")] = None,
    compatibility: Annotated[
        str | None, typer.Option("--compatibility", help="free, symmetric, diagonal or fixed.")
    ] = None,
    temperature: Annotated[
        bool, typer.Option("--temperature/--no-temperature", help="Learn a divisor of the unary.")
    ] = True,
    settings: Settings = None,
    show: Annotated[bool, show_keys("FitConfig")] = False,
    overwrite: common.Overwrite = False,
) -> None:
    """Learn weights, compatibility, bandwidths and temperature by back-propagation.

    Validation uses a fold of the given pictures, so keep test pictures out of ROOT's split. Ctrl-C and
    SIGTERM save the best parameters so far (exit codes 130 and 143). A CSV log of the same name is written
    next to the parameter file. --show prints the defaults of all options.

    Example: crfrnn fit VOCdevkit --unaries logits/ --layout lhw -o learned.safetensors

    Example: crfrnn fit data/ --labels 4 --unaries logits/ --layout lhw --all-folds -o learned.safetensors

    Example: crfrnn fit data/ --labels 4 --unaries logits/ --layout lhw -s rate_theta=0 -o learned.safetensors
    """
    from crfrnn.io.outputs import Item, claim
    from crfrnn.lattice import keep_memory
    from crfrnn.training import FitConfig, cross_fit
    from crfrnn.training import fit as fit_crf
    from crfrnn.training.config import configured

    config = configured(
        FitConfig, settings or (), epochs=epochs, batch=batch, folds=folds, fold=fold, patience=patience,
        select=select, seed=seed, compatibility=compatibility,
    )  # fmt: skip
    check_output(output)
    keep_memory()
    data = common.dataset(root, split, limit, unaries, labels, void, kind=kind, layout=layout, key=key)
    crf = _start(start, data.num_labels, preset, label_weights, iterations, quality, temperature)
    log = output.with_suffix(".csv")
    logs = [log.with_stem(f"{log.stem}-{number}") for number in range(config.folds)] if all_folds else [log]
    with (
        claim(
            output.parent, "fit", common.settings(), [Item((), (*logs, output))],
            inputs=[start] if start else [], whole=False, replace=False, overwrite=overwrite,
        ),
        common.progress() as bar,
    ):  # fmt: skip
        if all_folds:
            result, parts = cross_fit(
                data, crf, config, log=log, report=lambda number: common.epoch_report(bar)
            )
        else:
            result, parts = fit_crf(data, crf, config, log=log, report=common.epoch_report(bar)), []
        figures = {"held_out": result.validation.figures(), "held_out_before": result.start.figures()}
        how = {"config": asdict(config), "all_folds": len(parts), "epoch": result.best_epoch}
        save_result(output, result, data, figures, provenance("fit", data, unaries, split, how))
    common.out.print(f"Held out, before: {common.figures_line(figures['held_out_before'])}")
    common.out.print(f"Held out, after:  {common.figures_line(figures['held_out'])}")
    common.out.print(f"Log: {log}" + (" (one per fold)" if parts else ""), markup=False)
    common.out.print(f"Parameters: {output}", markup=False)
    if result.interrupted:
        raise common.stopped(f"the best parameters so far are kept; --start {output} continues from them")


def _start(
    start: Path | None, num_labels: int, preset: str | None, label_weights: str, iterations: int | None,
    quality: str, temperature: bool,
) -> CRFRNN:  # fmt: skip
    from crfrnn.crf import CRFRNN
    from crfrnn.crf.binary import for_two_labels
    from crfrnn.io import load_parameters

    if start is None:
        return CRFRNN(
            num_labels, preset=preset, label_weights=label_weights, temperature=1.0 if temperature else None,
            **common.layer_settings(quality, iterations),
        )  # fmt: skip
    if preset is not None:
        raise ValueError("--start: expected alone, got --preset too; choose one")
    crf = for_two_labels(load_parameters(start).crf)
    if crf.num_labels != num_labels:
        raise ValueError(f"--start: expected parameters for {num_labels} labels, got {crf.num_labels}")
    if iterations is not None:
        crf.iterations, crf.eval_iterations = common.check_iterations(iterations), None
    return with_form(crf, label_weights, temperature)


def with_form(crf: CRFRNN, label_weights: str, temperature: bool) -> CRFRNN:
    """An equal CRF with weights as vectors or matrices, and with a temperature if it is to be learned."""
    import torch

    from crfrnn.crf.saved import WEIGHTS, layer_of, settings_of

    state = dict(crf.state_dict())
    if label_weights == "matrix" and crf.label_weights == "vector":
        state |= {name: state[name].diag() for name in WEIGHTS}
    elif label_weights != crf.label_weights:
        raise ValueError(f"--label-weights: expected matrix as --start has it, got {label_weights}")
    if temperature:
        state.setdefault("log_temperature", torch.zeros(()))
    return layer_of({**settings_of(crf), "label_weights": label_weights}, state)


def check_output(output: Path) -> None:
    """Reject an unusable name before hours of work, not after."""
    if output.suffix != ".safetensors":
        raise ValueError(f"-o: expected a name ending in .safetensors, got {str(output)!r}")


def save_result(
    output: Path, result: FitResult | TuneResult, data: UnaryDataset, figures: dict[str, Any],
    origin: dict[str, Any],
) -> None:  # fmt: skip
    """Write the parameter file and print its content."""
    from crfrnn.io import save_parameters

    names = common.class_names(data.pictures, data.num_labels)
    save_parameters(output, result.crf, class_names=names, scores=figures, provenance=origin)
    common.out.print(common.layer_line(result.crf))


def provenance(
    command: str, data: UnaryDataset, unaries: str, split: str, how: dict[str, Any]
) -> dict[str, Any]:
    """What is needed to repeat the run, without paths of this machine."""
    import torch

    return {
        "command": command,
        "pictures": len(data),
        "split": split,
        "unaries": Path(unaries.removeprefix("deeplab:")).name,
        "versions": {
            "crfrnn": common.own_version(),
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
        **how,
    }  # fmt: skip
