# SPDX-License-Identifier: MIT
"""The command `crfrnn` with its subcommands: parse, then call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from crfrnn.commands import common
from crfrnn.commands.accuracy import accuracy
from crfrnn.commands.app import app as page
from crfrnn.commands.convert import convert
from crfrnn.commands.demo import demo
from crfrnn.commands.doctor import doctor
from crfrnn.commands.evaluate import evaluate
from crfrnn.commands.explain import explain
from crfrnn.commands.fit import fit
from crfrnn.commands.interact import interact
from crfrnn.commands.pseudo_labels import pseudo_labels
from crfrnn.commands.refine import refine
from crfrnn.commands.refinement import experiments
from crfrnn.commands.segment import segment
from crfrnn.commands.submit import submit
from crfrnn.commands.tiles import tiles
from crfrnn.commands.train import train
from crfrnn.commands.tune import tune
from crfrnn.commands.volume import volume

app = typer.Typer(
    name="crfrnn",
    help="Dense conditional random fields for segmentation: refine, train, evaluate.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for command in (
    segment,
    refine,
    interact,
    volume,
    tiles,
    pseudo_labels,
    fit,
    tune,
    train,
    evaluate,
    submit,
    convert,
    accuracy,
    explain,
    doctor,
    demo,
    page,
):
    app.command()(common.reported(command))
app.add_typer(experiments, name="experiment")


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=common.print_version, is_eager=True),
    ] = False,
) -> None:
    common.state.debug = debug


def run(given: Sequence[str]) -> None:
    """Parse and call; --debug is accepted at any position."""
    if "--debug" in given:
        given = ["--debug", *(word for word in given if word != "--debug")]
    app(args=list(given))
