# SPDX-License-Identifier: MIT
"""Pack predictions in the format of the PASCAL VOC server."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from crfrnn.datasets.context import CONTEXT_CLASSES
from crfrnn.datasets.pictures import PictureSet, some
from crfrnn.io.files import FileError, PathLike, atomic
from crfrnn.io.images import upright_size
from crfrnn.io.labels import label_picture, read_label_png
from crfrnn.io.palette import VOC_CLASSES
from crfrnn.io.problems import by_kind
from crfrnn.lattice.validate import check_choice

COMPETITIONS = ("comp5", "comp6")


@dataclass(frozen=True)
class Target:
    """A benchmark of the server.

    Attributes:
        folder: its name below ``results``.
        num_labels: labels are 0..num_labels-1; the server counts void as an error, so it is not allowed.
        year: year of the development kit with the pictures.
    """

    folder: str
    num_labels: int
    year: str


TARGETS = {
    "voc2010": Target("VOC2010", len(VOC_CLASSES), "2010"),
    "voc2011": Target("VOC2011", len(VOC_CLASSES), "2011"),
    "voc2012": Target("VOC2012", len(VOC_CLASSES), "2012"),
    # There is no server for Pascal Context: use the same layout under a different name.
    "context": Target("PascalContext", 1 + len(CONTEXT_CLASSES), "2010"),
}


def pack_submission(
    predictions: PathLike,
    pictures: PictureSet,
    output: PathLike,
    *,
    target: str = "voc2012",
    competition: str = "comp6",
    split: str = "test",
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Write ``results/VOC2012/Segmentation/comp6_test_cls/ID.png`` … into one tar.gz, atomically.

    Every prediction is read, checked and saved again as indexed PNG with the VOC palette; equal predictions
    give equal bytes.

    Args:
        predictions: a folder with ``ID.png`` (indexed or grey, values are labels) for every picture.
        pictures: the pictures of the list; predictions must have their sizes.
        output: the .tar.gz or .tgz; its folder must exist.
        target: "voc2010", "voc2011", "voc2012" or "context".
        competition: "comp5" for methods trained only on the provided data, "comp6" for all others.
        split: the list's name.
        progress: called with (done, total).

    Returns:
        Names of files in the folder that are not in the list and were ignored.

    Raises:
        ValueError: an unknown target or competition; and, in one error, all missing or damaged predictions,
            sizes that differ, labels out of range, pictures that cannot be read.

    Source: PASCAL VOC 2012 development kit, "Submission of results", section 3.
    """
    check_choice("target", target, TARGETS)
    check_choice("competition", competition, COMPETITIONS)
    if not str(output).endswith((".tar.gz", ".tgz")):
        raise ValueError(f"output: expected a name that ends in .tar.gz or .tgz, got {str(output)!r}")
    if not split or "/" in split or "\\" in split:
        raise ValueError(f"split: expected the plain name of a list, got {split!r}")
    folder, chosen = Path(predictions), TARGETS[target]
    if not folder.is_dir():
        raise ValueError(
            f"predictions: expected a folder, got {str(folder)!r}; name the one with ID.png in it"
        )
    missing = [i for i in pictures.ids if not (folder / f"{i}.png").is_file()]
    problems = (
        [f"no prediction for {len(missing)} of {len(pictures)} ids: {some(missing)}"] if missing else []
    )
    inner = f"results/{chosen.folder}/Segmentation/{competition}_{split}_cls"
    lost = set(missing)
    with atomic(output) as temporary:
        # Neither the archive nor the gzip header contains a time or a user name.
        with (
            open(temporary, "wb") as raw,
            gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
        ):
            for done, item in enumerate(sorted(pictures, key=lambda item: item.id), 1):
                if item.id not in lost:
                    try:
                        saved = _checked(folder / f"{item.id}.png", item.image_path, chosen)
                    except ValueError as error:
                        problems.append(str(error))
                    else:
                        _add(archive, saved, f"{inner}/{item.id}.png")
                if progress is not None:
                    progress(done, len(pictures))
        if problems:
            lines = "\n  ".join(by_kind(problems))
            raise ValueError(
                f"predictions: expected one valid label map per id, got {len(problems)} problems; "
                f"nothing was written:\n  {lines}"
            )
    listed = set(pictures.ids)
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".png" or p.stem not in listed)


def _checked(prediction: Path, picture: Path, target: Target) -> bytes:
    """The prediction saved in the server's format; `FileError` if it does not fit this picture."""
    labels = read_label_png(prediction, role="prediction")
    height, width = upright_size(picture)
    if labels.shape != (height, width):
        got = f"{labels.shape[0]} × {labels.shape[1]}"
        wanted = f"{height} × {width} as its picture has"
        raise FileError("prediction", prediction, wanted, got, "predict at the picture's size")
    if labels.max() >= target.num_labels:  # also 255: the server accepts no void
        raise FileError(
            "prediction", prediction, f"labels 0..{target.num_labels - 1}", f"{labels.max()}",
            "give every pixel a label",
        )  # fmt: skip
    saved = io.BytesIO()
    label_picture(labels).save(saved, format="PNG")
    return saved.getvalue()


def _add(archive: tarfile.TarFile, content: bytes, name: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    archive.addfile(entry, io.BytesIO(content))
