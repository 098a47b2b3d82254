# SPDX-License-Identifier: MIT
"""`crfrnn evaluate`: compare several methods on the same pictures."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from crfrnn.commands import common

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from crfrnn.datasets import Sample
    from crfrnn.evaluation import Evaluation

    Method = Callable[[Sample], NDArray[np.int64]]


def evaluate(
    root: common.Root,
    methods: Annotated[
        list[str],
        typer.Option(
            "--method",
            "-m",
            help="plain, preset:NAME, params:FILE, folder:DIR of label PNGs, or FILE, DIR; NAME=… names it.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the tables.")],
    unaries: Annotated[
        str | None,
        typer.Option("--unaries", help="A folder of files named as the pictures, or deeplab:FILE.npz."),
    ] = None,
    split: common.Split = "val",
    kind: common.Kind = "logits",
    layout: common.Layout = None,
    key: common.Key = None,
    labels: common.Labels = None,
    void: common.Void = None,
    limit: common.Limit = None,
    iterations: common.Iterations = None,
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="Method that others are compared with (the first).")
    ] = None,
    trimap_width: Annotated[int, typer.Option("--trimap-width", help="Pixels around the void band.")] = 5,
    samples: Annotated[int, typer.Option("--samples", help="Bootstrap resamples of the pictures.")] = 2000,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the bootstrap.")] = 0,
    overwrite: common.Overwrite = False,
) -> None:
    """Compute VOC's mean IU, trimap IU, boundary IoU and F, with bootstrap intervals over pictures.

    Writes scores.md, scores.csv, differences.csv and trimap.csv (the curve by width).

    Example: crfrnn evaluate VOCdevkit --unaries logits/ --layout lhw -m plain -m fit.safetensors -o out
    """  # fmt: skip
    from crfrnn.datasets import UnaryDataset
    from crfrnn.evaluation import Evaluator
    from crfrnn.evaluation.tables import difference_lines, write_csv
    from crfrnn.inference.many import many
    from crfrnn.io.outputs import Item, claim
    from crfrnn.lattice.validate import check_choice

    specs = dict(_named(spec) for spec in methods)
    if len(specs) != len(methods):
        raise ValueError("--method: expected each name once; write NAME=… to distinguish them")
    base = check_choice("--baseline", baseline or next(iter(specs)), specs)
    found, count = common.labelled(root, split, limit, labels, void)
    folders = {name: folder for name, spec in specs.items() if (folder := _folder(spec)) is not None}
    needs = [spec for name, spec in specs.items() if name not in folders]
    if unaries is None and needs:
        raise ValueError(f"--unaries: expected a folder or deeplab:FILE.npz for {needs[0]!r}, got none")
    source = (
        common.unary_source(unaries, kind=kind, layout=layout, key=key, num_labels=count, unknown=void)
        if unaries
        else _none
    )
    common.check_unaries(source, found)
    for folder in folders.values():
        common.check_each("--method", found.ids, partial(_prediction, folder))
    data = UnaryDataset(found, source, count, cache_bytes=0)
    runs = {name: _method(spec, count, iterations, void) for name, spec in specs.items()}
    tables = {name: output / name for name in ("scores.md", "scores.csv", "trimap.csv", "differences.csv")}
    names = common.class_names(found, count)
    evaluator = Evaluator(count, class_names=names, trimap_width=trimap_width)
    item = Item((), tuple(tables.values()))

    def judge(indices: Sequence[int]) -> list[None]:
        read = [data[i] if unaries is not None else data.without_unary(i) for i in indices]
        return [
            evaluator.update(one.id, one.truth.numpy(), {name: run(one) for name, run in runs.items()})
            for one in read
        ]

    with (
        claim(output, "evaluate", common.settings(), [item], whole=False, overwrite=overwrite),
        common.progress() as bar,
    ):
        tally = many(
            range(len(data)), judge, name=found.ids.__getitem__, strict=common.state.debug,
            progress=bar.counter("evaluate", len(data)),
        )  # fmt: skip
        if tally.failed:  # figures of the other pictures alone would be misleading
            for line in (*tally.problems(), "nothing was written"):
                common.show_error(line)
            raise typer.Exit(common.USAGE)
        result = evaluator.compute()
        options: dict[str, Any] = {"samples": samples, "seed": seed}
        result.write_markdown(tables["scores.md"], baseline=base if len(specs) > 1 else None, **options)
        result.write_csv(tables["scores.csv"], **options)
        result.write_curve_csv(tables["trimap.csv"])
        if len(specs) > 1:
            pairs = [(method, base) for method in result.methods if method != base]
            write_csv(tables["differences.csv"], difference_lines(result, pairs, options, "baseline"))
        else:  # tables of an earlier run could be mistaken for this one's
            tables["differences.csv"].unlink(missing_ok=True)
    _show(result)
    among, of = len(result.true_labels), len(result.class_names)
    common.out.print(
        f"{len(result.ids)} pictures; means over the {among} of {of} labels that occur in the truth. "
        f"Tables with intervals: {tables['scores.md']}",
        markup=False,
    )


def _none(name: str, size: tuple[int, int]) -> Tensor:
    raise ValueError(f"--unaries: expected some for {name!r}, got none")


def _named(spec: str) -> tuple[str, str]:
    """NAME=SPEC, or a name made from the spec."""
    name, equals, rest = spec.partition("=")
    if equals and name and not Path(spec).exists():
        return name, rest
    rest = re.sub("^(preset|params|folder):", "", spec)
    return (Path(rest).stem if Path(rest).exists() else rest), spec


def _folder(spec: str) -> Path | None:
    """The folder of label maps that a method names, or None."""
    path = Path(spec.removeprefix("folder:"))
    return path if path.is_dir() else None


def _prediction(folder: Path, name: str) -> Path:
    from crfrnn.io.files import existing

    return existing(folder / f"{name}.png", "prediction")


def _method(spec: str, num_labels: int, iterations: int | None, void: int | None) -> Method:
    import numpy as np

    from crfrnn.crf.likeliest import likeliest
    from crfrnn.inference.refine import refine
    from crfrnn.io.labels import ask_about_white, check_labels, read_label_png

    if spec == "plain":
        return lambda sample: likeliest(sample.unary)
    kind, _, rest = spec.partition(":")
    path = Path(rest if kind in ("params", "folder") and rest else spec)
    folder = _folder(spec)
    if folder is not None:

        def read(sample: Sample) -> NDArray[np.int64]:
            file = _prediction(folder, sample.id)
            labels = read_label_png(file, role="prediction")
            if void is None and num_labels > 1:
                ask_about_white(labels, "prediction", file)
            check_labels(labels, num_labels, file, "prediction")
            return labels.astype(np.int64)

        return read
    if kind == "preset" and rest:
        crf = common.build_crf(num_labels, None, rest, iterations).crf
    elif path.is_file() and kind != "folder":
        crf = common.build_crf(num_labels, path, None, iterations).crf
    else:
        raise ValueError(
            f"--method: expected plain, preset:NAME, params:FILE or folder:DIR (that exist), got {spec!r}"
        )
    return lambda sample: refine(sample.image, sample.unary, crf).labels


def _show(result: Evaluation) -> None:
    from crfrnn.evaluation import METRICS
    from crfrnn.evaluation.tables import percent

    table = Table()
    table.add_column("percent")
    for method in result.methods:
        table.add_column(method, justify="right", overflow="fold")
    for metric, figure in METRICS.items():
        table.add_row(
            figure.title, *(percent(result.score(method, metric), missing="–") for method in result.methods)
        )
    common.out.print(table)
