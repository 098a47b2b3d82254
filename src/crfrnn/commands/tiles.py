# SPDX-License-Identifier: MIT
"""`crfrnn tiles`: refine the scores of a big GeoTIFF to a label map with the same georeference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crfrnn.commands import common, scenes


def tiles(
    image: Annotated[Path, typer.Argument(help="SCENE.tif, the guide.")],
    unary: Annotated[Path, typer.Option("--unary", "-u", help="SCORES.tif: a band per label, or labels.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="LABELS.tif")],
    kind: Annotated[str, typer.Option("--kind", help="logits, probabilities, labels.")],
    bands: scenes.Bands = scenes.BANDS,
    scale: common.Scale = None,
    labels: common.Labels = None,
    void: common.Void = None,
    gt_prob: common.GtProb = 0.7,
    params: common.Params = None,
    preset: common.Preset = None,
    theta_alpha: common.ThetaAlpha = None,
    theta_beta: common.ThetaBeta = None,
    theta_gamma: common.ThetaGamma = None,
    spatial_weight: common.SpatialWeight = None,
    bilateral_weight: common.BilateralWeight = None,
    iterations: common.Iterations = None,
    quality: common.Quality = "default",
    guide_components: common.GuideComponents = None,
    memory: Annotated[
        float, typer.Option("--memory", help="Memory in MiB, besides about 300 of Python.")
    ] = 2048,
    tile: Annotated[int | None, typer.Option("--tile", help="Side of the tiles, pixels.")] = None,
    overlap: Annotated[
        int | None, typer.Option("--overlap", help="Pixels that tiles share; default: 3 theta-alpha.")
    ] = None,
    save_probabilities: Annotated[
        bool, typer.Option("--save-probabilities", help="Also NAME_probabilities.tif, float32 bands.")
    ] = False,
    skip_existing: common.SkipExisting = False,
    overwrite: common.Overwrite = False,
) -> None:
    """Refine a big picture tile by tile; GeoTIFF in and out, read and written by windows.

    Example: crfrnn tiles scene.tif -u scores.tif --kind probabilities -o labels.tif --memory 2048

    Example: crfrnn tiles scene.tif -u map.tif --kind labels --labels 6 --gt-prob 0.8 -o labels.tif
    """
    from crfrnn.inference import refine_tiles
    from crfrnn.io import AsLogits, FileError, LabelRaster, Raster
    from crfrnn.io.outputs import Item, claim
    from crfrnn.lattice.validate import warn

    with scenes.open_scene(image, bands, scale) as guide, Raster(unary, "--unary") as scores:
        if misfit := guide.misfit(scores):
            raise FileError(
                "--unary", unary, f"the picture's {guide.shape[2]} × {guide.shape[1]} pixels and positions",
                misfit, "warp it onto the picture",
            )  # fmt: skip
        if kind == "labels" and scores.nodata in range(labels or 0):
            warn(
                f"--unary {str(unary)!r}: label {scores.nodata:g} is also the file's nodata value, so "
                "its pixels are ignored; if it is a label, unset the nodata value (gdal_edit.py -unsetnodata)"
            )
        convert = AsLogits(kind, labels, gt_prob, void)
        crf = common.build_crf(
            convert.count(len(scores.bands), "--unary", unary), params, preset, iterations,
            theta_alpha=theta_alpha, theta_beta=theta_beta, theta_gamma=theta_gamma,
            spatial_weight=spatial_weight, bilateral_weight=bilateral_weight, quality=quality,
            guide_components=guide_components,
        ).crf.eval()  # fmt: skip
        extra = scenes.beside(output, save_probabilities)
        item, done = Item((image, unary), (*([extra] if extra else ()), output)), None
        with claim(
            output.parent, "tiles", common.settings(), [item], inputs=[params] if params else [],
            whole=False, resume=skip_existing, overwrite=overwrite,
        ) as outputs:  # fmt: skip
            if not outputs.finished(item):
                with LabelRaster(output, guide, crf.num_labels, extra) as out, scenes.tile_bar() as progress:
                    done = refine_tiles(
                        guide, scores, crf, out.write, logits=convert, memory=memory, tile=tile,
                        overlap=overlap, progress=progress,
                    )  # fmt: skip
    scenes.say(done, output)
