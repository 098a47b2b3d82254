# SPDX-License-Identifier: MIT
"""`crfrnn explain`: figures of what the CRF does to one photograph."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crfrnn.commands import common


def explain(
    image: Annotated[Path, typer.Argument(help="A picture.", show_default=False)],
    unary: Annotated[Path, typer.Option("--unary", "-u", help="Its unary.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the figures and their page.")],
    kind: common.Kind,
    layout: common.Layout = None,
    labels: common.Labels = None,
    void: common.Void = None,
    gt_prob: common.GtProb = 0.7,
    key: common.Key = None,
    scale: common.Scale = None,
    params: common.Params = None,
    preset: common.Preset = None,
    theta_alpha: common.ThetaAlpha = None,
    theta_beta: common.ThetaBeta = None,
    theta_gamma: common.ThetaGamma = None,
    spatial_weight: common.SpatialWeight = None,
    bilateral_weight: common.BilateralWeight = None,
    iterations: common.Iterations = None,
    quality: common.Quality = "default",
    truth: Annotated[
        Path | None,
        typer.Option("--truth", help="True labels, an indexed PNG with 255 = void: trimap curves."),
    ] = None,
    pixel: Annotated[
        tuple[int, int] | None,
        typer.Option("--pixel", help="X Y of the kernels' footprints; default: where the CRF changed most."),
    ] = None,
    film: Annotated[str, typer.Option("--film", help="gif, or png: animated, in full colour.")] = "gif",
    overwrite: common.Overwrite = False,
) -> None:
    """Draw what the CRF does to one picture: labels per iteration, kernels, compatibility, free energy.

    OUTPUT gets the figures and index.html, which shows and explains them. The labels equal those of `refine`
    with the same options.

    Example: crfrnn explain cat.jpg --unary cat.npy --kind logits --layout lhw -o cat/

    Example: crfrnn explain cat.jpg -u cat.npy --kind logits --layout lhw --truth cat.png --film png -o cat/
    """
    from crfrnn.explain import explain as draw
    from crfrnn.explain import file_names
    from crfrnn.io import read_image, read_label_png, read_unary
    from crfrnn.io.outputs import Item, claim
    from crfrnn.io.scale import check_scale

    if film not in ("gif", "png"):
        raise ValueError(f"--film: expected gif or png, got {film!r}")
    picture = read_image(image, scale=check_scale(scale))
    size = (picture.shape[0], picture.shape[1])
    found = read_unary(
        unary, size=size, picture=image, num_labels=labels, kind=kind, axes=layout, gt_prob=gt_prob, key=key,
        unknown=void,
    )  # fmt: skip
    saved = common.build_crf(
        found.logits.shape[0], params, preset, iterations, theta_alpha=theta_alpha, theta_beta=theta_beta,
        theta_gamma=theta_gamma, spatial_weight=spatial_weight, bilateral_weight=bilateral_weight,
        quality=quality,
    )  # fmt: skip
    true = None if truth is None else read_label_png(truth, max(2, found.logits.shape[0]), role="truth")
    sources = (image, unary) if truth is None else (image, unary, truth)
    files = tuple(output / name for name in file_names(film, true is not None))
    with claim(
        output, "explain", common.settings("image", "unary", "truth"), [Item(sources, files)],
        inputs=[params] if params else [], overwrite=overwrite,
    ):  # fmt: skip
        drawn = draw(
            picture,
            found.logits,
            saved.crf,
            clamp=found.clamp,
            truth=true,
            pixel=pixel,
            names=saved.class_names,
        )
        page = drawn.write(output, film)
    common.out.print(
        f"{len(drawn.figures) + 1} pictures; {100 * drawn.prediction.changed:.1f} % of the pixels changed."
    )
    for sentence in drawn.missing:
        common.show_warning(sentence)
    common.out.print(f"Open {page}", markup=False)
