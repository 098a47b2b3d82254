# SPDX-License-Identifier: MIT
"""`crfrnn demo`: segment one photograph with the packaged checkpoint, another from scribbles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crfrnn.commands import common


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")] = Path(
        "demo-output"
    ),
    overwrite: common.Overwrite = False,
) -> None:
    """Segment one photograph with the packaged network and CRF, another from a few scribbles; works offline.

    Example: crfrnn demo -o demo-output
    """
    import numpy as np

    from crfrnn.demo import run, segment_photograph
    from crfrnn.io import write_label_png
    from crfrnn.io.images import write_png
    from crfrnn.io.outputs import Item, claim
    from crfrnn.lattice import keep_memory

    keep_memory()
    files = tuple(output / name for name in ("segmented.png", "labels.png", "panel.png"))
    with claim(output, "demo", {}, [Item((), files)], overwrite=overwrite):
        segmented, result = segment_photograph(), run()
        scene, refined = result.scene, result.refined
        write_png(segmented.panel, files[0])
        write_label_png(files[1], refined.labels, scene.palette)
        write_png(result.panel, files[2])
    height, width = scene.scribbles.shape
    drawn = 100 * float((scene.scribbles >= 0).mean())
    say = common.out.print
    found = segmented.prediction
    areas = sorted((area for area in found.areas if area.share >= 0.01), key=lambda area: -area.share)
    say("Photograph: astronaut.png of scikit-image (NASA, public domain); network: the packaged one.")
    say("Labels: " + ", ".join(f"{found.name(a.label)} {100 * a.share:.0f} %" for a in areas) + ".")
    say(f"Network and CRF: {segmented.seconds:.2f} s. Without and with the CRF: {files[0]}", markup=False)
    say()
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
    say(f"Label map: {files[1]}", markup=False)
    say("Input, before, after and difference in one picture:")
    say(str(files[2]), markup=False)
