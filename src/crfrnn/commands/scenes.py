# SPDX-License-Identifier: MIT
"""GeoTIFF read and written by windows, shared by `crfrnn tiles` and `crfrnn segment`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crfrnn.commands import common
from crfrnn.commands.pictures import picture_endings

if TYPE_CHECKING:
    from crfrnn.inference import Tiling
    from crfrnn.io import Raster

Bands = Annotated[str, typer.Option("--bands", help="Bands of a GeoTIFF, such as 3,2,1.")]
BANDS = "1,2,3"
ENDINGS = (".tif", ".tiff")


def open_scene(path: Path, bands: str, scale: tuple[float, float] | None) -> Raster:
    """The bands of a picture as numbers in 0..255; FileError if their scale is needed and not given."""
    import numpy as np

    from crfrnn.io import FileError, Raster

    try:
        chosen = [int(word) for word in bands.split(",")]
    except ValueError:
        raise ValueError(f"--bands: expected numbers such as 3,2,1, got {bands!r}") from None
    ending = path.suffix.lower()
    if path.is_file() and ending not in ENDINGS and ending in picture_endings():
        raise FileError(
            "IMAGE", path, "a GeoTIFF", f"a picture in {ending}",
            "photographs are for `crfrnn segment` and `crfrnn refine`, with a folder after -o",
        )  # fmt: skip
    scene = Raster(path, "IMAGE", bands=chosen, scale=scale)
    try:
        if scene.indexed:
            raise FileError(
                "IMAGE", path, "bands of grey or colour", "palette indices",
                "write the colours themselves: gdal_translate -expand rgb",
            )  # fmt: skip
        if (scene.dtype != np.uint8 or scene.bits != 8) and scale is None:
            raise FileError(
                "IMAGE", path, "8 bits per band", f"{scene.dtype} of {scene.bits} bits",
                "pass --scale LOW HIGH, the numbers that become 0 and 255",
            )  # fmt: skip
    except FileError:
        scene.close()
        raise
    return scene


def beside(output: Path, save_probabilities: bool) -> Path | None:
    """The file of the marginals, if requested."""
    return output.with_name(f"{output.stem}_probabilities.tif") if save_probabilities else None


@contextmanager
def tile_bar() -> Iterator[Callable[[int, int], None]]:
    """A callback (tiles done, tiles in total)."""
    with common.progress() as bar:
        yield bar.counter("tiles")


def say(done: Tiling | None, output: Path) -> None:
    """Print the tiling and the share of changed pixels; None: the result already existed."""
    if done is None:
        common.out.print("0 of 1 done, 1 already existed.")
    else:
        changed = f"; {100 * done.changed:.1f} % of the pixels changed" if done.crf else ""
        common.out.print(
            f"{done.tiles} {'tile' if done.tiles == 1 else 'tiles'} of at most {done.side} pixels, "
            f"overlap {done.overlap}{changed}."
        )
    common.out.print(f"Label map: {output}", markup=False)
