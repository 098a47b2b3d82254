# SPDX-License-Identifier: MIT
"""`crfrnn demo`: scribbles on a photograph, refined, as a picture worth looking at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from crfrnn.commands import common
from crfrnn.data import atomic, write_label_png


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")] = Path(
        "demo-output"
    ),
) -> None:
    """Segment a photograph from a few scribbles and refine it; needs nothing but scikit-learn's picture.

    Example: crfrnn demo -o demo-output
    """
    from crfrnn.demo import run

    result = run()
    scene, refined = result.scene, result.refined
    folder = common.new_folder(output)
    write_label_png(folder / "labels.png", refined.labels, scene.palette)
    with atomic(folder / "panel.png") as temporary:
        result.panel.save(temporary, format="PNG")
    height, width = scene.scribbles.shape
    drawn = 100 * float((scene.scribbles >= 0).mean())
    say = common.out.print
    say(f"Photograph: china.jpg of scikit-learn (by danielbuechele, CC BY 2.0), {width} × {height} pixels.")
    say(f"Scribbles: {drawn:.1f} % of the pixels, labels {', '.join(scene.names)}.")
    crf = result.crf
    say(f"Dense CRF: {crf.iterations} mean-field iterations in {result.seconds:.2f} s, lattice included.")
    say("Parameters: " + common.layer_line(crf) + ".")
    say(f"Labels that changed: {100 * refined.changed:.1f} % of the pixels.")
    shares = np.bincount(refined.labels.ravel(), minlength=len(scene.names)) / refined.labels.size
    say(
        "Result: " + ", ".join(f"{n} {100 * s:.0f} %" for n, s in zip(scene.names, shares, strict=True)) + "."
    )
    say(f"Label map: {folder / 'labels.png'}", markup=False)
    say("Input, before, after and difference in one picture:")
    say(str(folder / "panel.png"), markup=False)
