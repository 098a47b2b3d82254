# SPDX-License-Identifier: MIT
"""`crfrnn submit`: pack label maps into the archive for the VOC server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crfrnn.commands import common

if TYPE_CHECKING:
    from crfrnn.datasets import PictureSet


def submit(
    predictions: Annotated[Path, typer.Argument(help="A folder with ID.png for every id of the list.")],
    root: Annotated[Path, typer.Argument(help="The VOC development kit with list and pictures.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="FILE.tar.gz")],
    target: Annotated[
        str, typer.Option("--target", help="One of voc2010, voc2011, voc2012, context.")
    ] = "voc2012",
    split: Annotated[
        str | None, typer.Option("--split", help="The list, or a list file; default: test (context: val).")
    ] = None,
    competition: Annotated[
        str,
        typer.Option("--competition", help="comp5 or comp6; comp5: only the provided data."),
    ] = "comp6",
    overwrite: common.Overwrite = False,
) -> None:
    """Pack label maps for the PASCAL VOC server; ids, sizes and labels are checked first.

    Example: crfrnn submit labels/ VOCdevkit/ -o results.tar.gz

    Example: crfrnn submit labels/ VOCdevkit/ --target voc2010 --competition comp5 -o results.tar.gz
    """
    from crfrnn.datasets.pictures import some
    from crfrnn.evaluation.submission import TARGETS, pack_submission
    from crfrnn.io.files import check_target
    from crfrnn.io.outputs import Item, claim
    from crfrnn.lattice.validate import check_choice

    check_choice("--target", target, TARGETS)
    listed, name = _listed(root, target, split)
    check_target(output)
    item = Item((), (output,))
    read = [*(predictions / f"{picture.id}.png" for picture in listed), *(p.image_path for p in listed)]
    with (
        claim(output.parent, "submit", {}, [item], inputs=read, whole=False, overwrite=overwrite),
        common.progress() as bar,
    ):
        left_out = pack_submission(
            predictions, listed, output, target=target, competition=competition, split=name,
            progress=bar.counter("submit", len(listed)),
        )  # fmt: skip
    if left_out:
        common.out.print(
            f"{len(left_out)} files whose names are not in the list were omitted: {some(left_out)}",
            markup=False,
        )
    common.out.print(f"{len(listed)} predictions in {output}", markup=False)


def _listed(root: Path, target: str, split: str | None) -> tuple[PictureSet, str]:
    """The pictures of the list, and its name."""
    from crfrnn.datasets import LabelledPicture, PictureSet, voc_pictures
    from crfrnn.datasets.pictures import read_ids
    from crfrnn.datasets.voc import devkit
    from crfrnn.evaluation.submission import TARGETS

    year = TARGETS[target].year
    wanted = split or ("val" if target == "context" else "test")
    listing = Path(wanted)
    if target == "context" and not listing.is_file():
        listing = devkit(root, year) / "ImageSets" / "SegmentationContext" / f"{wanted}.txt"
    elif not listing.is_file():
        return voc_pictures(root, wanted, masks=False, year=year), wanted
    pictures = devkit(root, year) / "JPEGImages"
    items = [LabelledPicture(i, pictures / f"{i}.jpg", None) for i in read_ids(listing, "--split")]
    return PictureSet.of(items, listing), listing.stem
