# SPDX-License-Identifier: MIT
"""`crfrnn volume`: refine label probabilities along a NIfTI guide to a NIfTI label volume."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crfrnn.commands import common

if TYPE_CHECKING:
    import numpy as np

    from crfrnn.io.nifti import Volume


def volume(
    guide: Annotated[Path, typer.Argument(help="GUIDE.nii.gz, such as a T1 image.")],
    unary: Annotated[
        list[Path],
        typer.Option(
            "--unary",
            "-u",
            help="PROBS.nii.gz with the labels last, .npz, .npy, .pt, or one file per label: repeatable.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="OUT.nii.gz")],
    also: Annotated[
        list[Path] | None, typer.Option("--also", help="Another channel on the guide's grid; repeatable.")
    ] = None,
    kind: Annotated[str, typer.Option("--kind", help="probabilities, logits, labels.")] = "probabilities",
    layout: Annotated[
        str | None,
        typer.Option("--layout", "--axes", help="Axes of an .npz, .npy or .pt: lxyz, lzyx, xyzl, zyxl."),
    ] = None,
    key: common.Key = None,
    labels: common.Labels = None,
    gt_prob: common.GtProb = 0.7,
    void: Annotated[
        int | None, typer.Option("--void", help="The number in a label map that means unknown.")
    ] = None,
    scale: common.Scale = None,
    mask: Annotated[
        Path | None, typer.Option("--mask", help="Refine only where this volume is above 0.")
    ] = None,
    theta_alpha: Annotated[
        float | None, typer.Option("--theta-alpha", help="Bilateral bandwidth, mm.")
    ] = None,
    theta_beta: common.ThetaBeta = None,
    theta_gamma: Annotated[float | None, typer.Option("--theta-gamma", help="Spatial bandwidth, mm.")] = None,
    spatial_weight: common.SpatialWeight = None,
    bilateral_weight: common.BilateralWeight = None,
    iterations: Annotated[int, typer.Option("--iterations", "-T", help="Mean-field iterations.")] = 5,
    quality: common.Quality = "default",
    save_probabilities: Annotated[
        bool, typer.Option("--save-probabilities", help="Also NAME_probabilities.nii.gz, float32.")
    ] = False,
    overwrite: common.Overwrite = False,
) -> None:
    """Refine the labels of a volume; affine, codes and units of the guide are kept.

    Lengths are in millimetres for any voxel size; the guide's intensities are first scaled to 0..255, by
    --scale or by their range.

    Example: crfrnn volume t1.nii.gz --unary tissue.nii.gz -o labels.nii.gz

    Example: crfrnn volume t1.nii.gz --also t2.nii.gz -u tissue.nii.gz --mask brain.nii.gz -o labels.nii.gz
    """
    import numpy as np

    from crfrnn.inference import refine_volume
    from crfrnn.io import read_nifti, read_scores, write_nifti
    from crfrnn.io.outputs import Item, claim

    common.check_iterations(iterations)
    stem = _stem(output)
    beside = [output.with_name(f"{stem}_probabilities.nii.gz")] if save_probabilities else []
    read = (guide, *unary, *(also or ()), *([mask] if mask else ()))
    # The labels are written last, so that an existing label volume means that all outputs exist.
    item = Item(read, (*beside, output))
    with (
        claim(output.parent, "volume", common.settings(), [item], whole=False, overwrite=overwrite),
        common.progress() as bar,
    ):
        task = bar.add_task("read", total=3)
        first = read_nifti(guide, "GUIDE")
        channels = [first.values if first.values.ndim == 4 else first.values[None]]
        for path in also or ():
            more = _on_grid(path, "--also", first)
            channels.append(more.values if more.values.ndim == 4 else more.values[None])
        inside = None if mask is None else _single(_on_grid(mask, "--mask", first), mask)
        scores = read_scores(
            unary, first, kind=kind, axes=layout, key=key, mask=inside, role="--unary",
            num_labels=None if kind == "labels" else labels,
        )  # fmt: skip
        bar.update(task, description="refine", completed=1)
        result = refine_volume(
            np.concatenate(channels),
            scores,
            first.spacing,
            theta_alpha=theta_alpha,
            theta_beta=theta_beta,
            theta_gamma=theta_gamma,
            spatial_weight=spatial_weight,
            bilateral_weight=bilateral_weight,
            iterations=iterations,
            kind=kind,
            num_labels=labels if kind == "labels" else None,
            gt_prob=gt_prob,
            unknown=void,
            mask=inside,
            scale=scale,
            quality=quality,
        )
        bar.update(task, description="write", completed=2)
        for name in beside:
            write_nifti(name, result.probabilities, first, intent="estimate")
        write_nifti(output, result.labels.astype(_dtype(result.labels)), first, intent="label")
    common.out.print(f"{100 * result.changed:.1f} % of the voxels changed.")
    common.out.print(f"Label volume: {output}", markup=False)


def _on_grid(path: Path, option: str, first: Volume) -> Volume:
    from crfrnn.io import read_nifti
    from crfrnn.io.nifti import check_grid

    found = read_nifti(path, option)
    check_grid(path, option, found.values.shape[-3:], found.affine, first)
    return found


def _dtype(labels: np.ndarray) -> type[np.integer]:
    import numpy as np

    top = int(labels.max())
    return np.uint8 if top < 2**8 else np.uint16 if top < 2**16 else np.int32


def _single(found: Volume, path: Path) -> np.ndarray:
    if found.values.ndim != 3:
        raise ValueError(
            f"--mask {str(path)!r}: expected three axes, got {found.values.shape}; pick one volume"
        )
    return found.values > 0


def _stem(output: Path) -> str:
    from crfrnn.io.nifti import ENDINGS

    for ending in ENDINGS:
        if output.name.lower().endswith(ending) and len(output.name) > len(ending):
            return output.name[: -len(ending)]
    raise ValueError(f"-o: expected a name in .nii.gz or .nii, got {str(output)!r}; add the ending")
