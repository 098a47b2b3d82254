# SPDX-License-Identifier: MIT
"""Your own pictures with any labels: images/ and masks/, or one folder of pairs, and a labels.txt."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crfrnn.datasets.pictures import IMAGE_ENDINGS, LabelledPicture, PictureSet, read_ids
from crfrnn.io.files import FileError, PathLike, read_text
from crfrnn.io.labels import read_label_png
from crfrnn.io.palette import VOID
from crfrnn.lattice.validate import warn

LABELS_FILE = "labels.txt"
MASK_SUFFIX = "_mask"
_NO_TRUTH = ("void", "ignore", "ignored", "unlabeled", "unlabelled")
_VALUED = re.compile(r"(\d{1,3})\s*:\s*(\S.*)")


@dataclass(frozen=True)
class LabelList:
    """The labels of a folder: their names in order, and the mask value of each.

    Attributes:
        names: one per label; label k is the k-th.
        values: the value (0..255) of each label in the masks.
        void: further values for unlabelled pixels, besides 255.
    """

    names: tuple[str, ...]
    values: tuple[int, ...]
    void: tuple[int, ...] = ()

    @classmethod
    def read(cls, path: PathLike) -> LabelList:
        """Read one name per line (label 0, 1, 2, …), or ``VALUE: NAME`` per line if masks hold other values.

        A line that starts with ``#`` is a comment and defines no label. Without values the ``#`` must be
        followed by a space, ``# like this``: ``#like this`` might be the name of a label.

        ``VALUE: void`` is not a label: it marks unlabelled pixels. Any other line with such a name is a label
            like the others, and a warning points it out.

        Raises:
            ValueError: no such file, no names, a duplicate name or value, mixed forms, more than 255 labels.
        """
        written = [line for line in map(str.strip, read_text(path, "labels").split("\n")) if line]
        lines = [line for line in written if not line.startswith("#")]
        valued = [found for line in lines if (found := _VALUED.fullmatch(line))]
        if not valued:
            _comments_stand_apart(written, path)
        if valued and len(valued) != len(lines):
            wrong = next(line for line in lines if not _VALUED.fullmatch(line))
            raise FileError(
                "labels", path, "VALUE: NAME in every line or in none", repr(wrong), "use one form throughout"
            )
        names = [m[2] for m in valued] or lines
        values = [int(m[1]) for m in valued] or list(range(len(lines)))
        void = [value for name, value in zip(names, values, strict=True) if valued and name.lower() == "void"]
        names = [name for name, value in zip(names, values, strict=True) if value not in void]
        values = [value for value in values if value not in void]
        for what, entries in (("name", names), ("value", [str(v) for v in values])):
            twice = sorted({e for e in entries if entries.count(e) > 1})
            if twice:
                got = f"{what} {', '.join(twice)} twice"
                raise FileError("labels", path, f"each {what} once", got, "remove one line")
        if not 1 <= len(names) <= VOID or max(values + void) > 255:
            raise FileError(
                "labels", path, "1..255 names with values 0..255",
                f"{len(names)} names, values up to {max(values + void, default=0)}", "one label per line",
            )  # fmt: skip
        return cls(tuple(names), tuple(values), tuple(void))

    @property
    def plain(self) -> bool:
        """Whether the masks hold the labels themselves."""
        return self.values == tuple(range(len(self.values))) and not self.void

    def without(self, void: int) -> LabelList:
        """The same list with a value for unlabelled pixels; a label of that value is removed."""
        pairs = [pair for pair in zip(self.names, self.values, strict=True) if pair[1] != void]
        return LabelList(tuple(n for n, _ in pairs), tuple(v for _, v in pairs), (*self.void, void))

    def warn_of_void(self, path: PathLike) -> None:
        """Warn of a label named "void" or similar that would be trained and scored like the others."""
        for name, value in zip(self.names, self.values, strict=True):
            if name.lower() in _NO_TRUTH:
                warn(
                    f"labels {str(path)!r}: {name!r} is a label like the others, trained and scored; if "
                    f"{value} marks unlabelled pixels, pass --void {value}, or write all lines as VALUE: "
                    f"NAME and this one as '{value}: void'"
                )

    def mask(self, path: PathLike) -> NDArray[np.uint8]:
        """The mask of a file as labels; 255 stays void unless a label is written as 255."""
        held = read_label_png(path, role="mask")
        table = np.full(256, -1, np.int16)
        table[[VOID, *self.void]] = VOID
        table[list(self.values)] = range(len(self.values))
        mask = table[held]
        if (mask < 0).any():
            y, x = (int(i) for i in np.argwhere(mask < 0)[0])
            raise FileError(
                "mask", path, f"the values of {LABELS_FILE} or {VOID}",
                f"{held[y, x]} at row {y}, column {x}",
                f"add a line '{held[y, x]}: NAME', or '{held[y, x]}: void' if it marks unlabelled pixels",
            )  # fmt: skip
        return mask.astype(np.uint8)


def _comments_stand_apart(lines: list[str], path: PathLike) -> None:
    """For lists in which a line's position is its label: reject ambiguous comments, warn of inner ones.

    Commenting out a label with ``#`` would renumber those after it.
    """
    unclear = [line for line in lines if re.match(r"#+[^#\s]", line)]
    if unclear:
        raise FileError(
            "labels", path, "names, or comments such as '# words'", f"{unclear[0]!r}, which may be either",
            "put a space after the # of a comment, or write VALUE: NAME in every line",
        )  # fmt: skip
    names = [place for place, line in enumerate(lines) if not line.startswith("#")]
    between = [line for line in lines[names[0] : names[-1]] if line.startswith("#")] if names else []
    if between:
        warn(
            f"labels {str(path)!r}: {between[0]!r} is read as a comment and not as a label, so that "
            f"label {len(names) - 1} is {lines[names[-1]]!r}; if it is a label, write VALUE: NAME in all "
            "lines"
        )


def folder_pictures(
    root: PathLike,
    split: str | None = None,
    *,
    images: str = "images",
    masks: str | None = "masks",
    num_labels: int | None = None,
    void: int | None = None,
) -> PictureSet:
    """Pictures with indexed or grey PNG masks: value = label, 255 = void.

    Either ``root/images/NAME.jpg`` with ``root/masks/NAME.png``, or both in one folder: ``NAME.jpg`` with
    ``NAME.png``, or ``NAME.*`` with ``NAME_mask.png``. ``root/labels.txt``, if it exists, names the
    labels (see `LabelList.read`).

    Args:
        root: the folder.
        split: None for all pictures; else those listed in ``root/<split>.txt``, or the folder
            ``root/<split>`` of either form.
        images, masks: names of the two folders; masks=None for pictures without truths.
        num_labels: the number of labels, if there is no labels.txt. Masks with other labels are rejected when
            they are read.
        void: a further value of unlabelled pixels, besides 255. A label with this value in labels.txt is
            removed.

    Raises:
        ValueError: no such folder or split, no pictures, two of one stem, `num_labels` in contradiction to
            labels.txt, and all missing masks in one error.
    """
    top = Path(root)
    labels = _labels(top, num_labels, void)
    count = num_labels if labels is None else len(labels.names)
    place, wanted = _split(top, split)
    if (place / images).is_dir():
        pairs = _two_folders(place / images, None if masks is None else place / masks)
    elif place.is_dir() and images == "images":
        pairs = _one_folder(place, masks is not None)
    else:
        raise ValueError(f"root: expected a folder with {images!r} in it, got {str(place)!r}; check it")
    if wanted is not None:
        found = {image.stem for image, _ in pairs}
        pairs = [pair for pair in pairs if pair[0].stem in set(wanted)]
        pairs += [(place / images / f"{name}.*", None) for name in wanted if name not in found]
    items = [
        LabelledPicture(
            image.stem, image, mask, count,
            None if labels is None or labels.plain or mask is None else partial(labels.mask, mask),
        )
        for image, mask in pairs
    ]  # fmt: skip
    named = labels is not None and (top / LABELS_FILE).is_file()
    return PictureSet.of(items, place, labels.names if named and labels is not None else ())


def _labels(top: Path, num_labels: int | None, void: int | None) -> LabelList | None:
    listing = top / LABELS_FILE
    if void is not None and not 0 <= void <= VOID:
        raise ValueError(f"void: expected a value of the masks, 0..{VOID}, got {void}")
    if not listing.is_file():
        if void in (None, VOID):
            return None
        if num_labels is None or void < num_labels:
            raise ValueError(
                f"void: expected a value outside the labels, got {void} and num_labels={num_labels}; give a "
                f"smaller num_labels, or write VALUE: NAME lines and '{void}: void' into {listing}"
            )
        return LabelList(tuple(map(str, range(num_labels))), tuple(range(num_labels)), (void,))
    labels = LabelList.read(listing)
    if void not in (None, VOID, *labels.void):
        labels = labels.without(void)
    labels.warn_of_void(listing)
    if num_labels not in (None, len(labels.names)):
        raise ValueError(
            f"num_labels: expected {len(labels.names)} as in {listing}, got {num_labels}; omit one of them"
        )
    return labels


def _split(top: Path, split: str | None) -> tuple[Path, list[str] | None]:
    if split is None:
        return top, None
    if (top / f"{split}.txt").is_file() and split != Path(LABELS_FILE).stem:
        return top, read_ids(top / f"{split}.txt")
    if (top / split).is_dir():
        return top / split, None
    raise ValueError(
        f"split: expected {split}.txt or a folder {split!r} in {str(top)!r}, got neither; create one of them"
    )


def _pictures(place: Path) -> list[Path]:
    return sorted(p for p in place.iterdir() if p.suffix.lower() in IMAGE_ENDINGS and p.is_file())


def _two_folders(images: Path, masks: Path | None) -> list[tuple[Path, Path | None]]:
    return [(p, None if masks is None else masks / f"{p.stem}.png") for p in _pictures(images)]


def _one_folder(place: Path, with_masks: bool) -> list[tuple[Path, Path | None]]:
    found = _pictures(place)
    stems = {p.stem for p in found if p.suffix.lower() != ".png"}
    is_mask = {
        p for p in found
        if p.suffix.lower() == ".png"
        and (p.stem in stems or (p.stem.endswith(MASK_SUFFIX) and len(p.stem) > len(MASK_SUFFIX)))
    }  # fmt: skip
    pairs: list[tuple[Path, Path | None]] = []
    for picture in found:
        if picture in is_mask:
            continue
        named = place / f"{picture.stem}{MASK_SUFFIX}.png"
        mask = named if named in is_mask else place / f"{picture.stem}.png"
        if mask == picture:  # a PNG picture without a mask
            mask = named
        pairs.append((picture, mask if with_masks else None))
    return pairs
