# SPDX-License-Identifier: MIT
"""Strokes and a box on a photograph: a colour model per label, then the CRF."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from crfrnn.app.bench import PARAMETERS, Bench, call, command_line
from crfrnn.app.knobs import Numbers
from crfrnn.app.options import WORK_SIDE, Options
from crfrnn.crf import CRFRNN
from crfrnn.inference import Held, Prediction
from crfrnn.inference.interact import Marked, default_crf
from crfrnn.io import VOID, read_image, write_label_png
from crfrnn.io.images import write_png
from crfrnn.io.labels import FREE
from crfrnn.plots import safe_palette, shrunk

MOST_LABELS = 6
MOST_MARKS, MOST_POINTS, WIDEST = 500, 20_000, 100
PHOTOGRAPH, STROKES = "photograph.png", "scribbles.png"
NAMES = ("background", *(f"object {n}" for n in range(1, MOST_LABELS)))
Box = tuple[int, int, int, int]


class Scribbles(Bench):
    """A photograph, at most `WORK_SIDE` pixels long, with scribbles or a box."""

    def __init__(self, path: Path, name: str, options: Options) -> None:
        super().__init__()
        self.name = name
        (self.image,) = shrunk(read_image(path, max_pixels=options.max_pixels), long_side=WORK_SIDE)
        self._guide = Held(self.image)
        self.palette = safe_palette(MOST_LABELS)
        self.begun = False  # whether a result was shown, so that its numbers may have been changed
        self.mark("[]", 2)

    def mark(self, marks: str, num_labels: int) -> None:
        """Set the marks from the page's JSON, see `drawn`.

        Raises: ValueError for malformed marks.
        """
        with self._lock:
            self._strokes, self._box = drawn(marks, self.image.shape[:2], num_labels)
            self._labels = 2 if self._box else num_labels
            self.names, self._marked = NAMES[: self._labels], None
            self.base = default_crf(self._labels, self.image.shape[:2])

    @property
    def missing(self) -> str:
        """The labels still to be painted, in words; "" if the marks suffice."""
        if self._box:
            return ""
        absent = [name for label, name in enumerate(self.names) if not (self._strokes == label).any()]
        return " and ".join(absent)

    def answer(self, crf: CRFRNN) -> Prediction:
        return self._look()(crf)

    final = answer

    def steps(self, crf: CRFRNN) -> Iterator[NDArray[np.int64]]:
        return self._look().steps(crf)

    def _look(self) -> Marked:
        """The marked picture, shared by all numbers; the lattice is kept when the marks change."""
        if self._marked is None:
            self._marked = Marked(self.image, self._strokes, self._labels, box=self._box, guide=self._guide)
        return self._marked

    def inputs(self, folder: Path) -> list[Path]:
        photograph, strokes = folder / PHOTOGRAPH, folder / STROKES
        write_png(Image.fromarray(self.image), photograph)
        if not self._drawn:
            return [photograph]
        write_label_png(strokes, np.where(self._strokes == FREE, VOID, self._strokes))
        return [photograph, strokes]

    def command(self, numbers: Numbers) -> str:
        words: list[object] = ["crfrnn", "interact", PHOTOGRAPH]
        if self._box:
            words += ["--box", ",".join(map(str, self._box))]
        if self._drawn:
            words += ["--scribbles", STROKES]
        words += ["--void", VOID] if self._asked else []
        if not self._box:
            words += ["--labels", self._labels]
        if self.changed(numbers):
            words += ["--params", PARAMETERS]
        return command_line(*words, "-o", f"completed/{self.stem}.png")

    @property
    def _drawn(self) -> bool:
        return bool((self._strokes != FREE).any())

    @property
    def _asked(self) -> bool:
        """Whether a reader would reject white as ambiguous: the file holds only 0 and 255."""
        return self._drawn and not (self._strokes > 0).any()

    def python(self, numbers: Numbers) -> str:
        take = "segment_box" if self._box else "segment_scribbles"
        reads = ["read_scribbles"] if self._drawn else []
        reads += ["load_parameters"] if self.changed(numbers) else []
        lines = [
            f"from crfrnn.inference.interact import {take}",
            f"from crfrnn.io import {', '.join(sorted([*reads, 'read_image', 'write_label_png']))}",
            "",
            f"image = {call('read_image', PHOTOGRAPH)}",
        ]
        words = ["image", str(self._box)] if self._box else ["image", "scribbles", str(self._labels)]
        if self._drawn:
            unknown = VOID if self._asked else None
            lines.append(f"scribbles = {call('read_scribbles', STROKES, self._labels, unknown=unknown)}")
            words += ["scribbles=scribbles"] if self._box else []
        if self.changed(numbers):
            lines.append(f"crf = load_parameters({PARAMETERS!r}).crf")
            words.append("crf=crf")
        lines.append(f"found = {take}({', '.join(words)})")
        lines.append(f"write_label_png({self.stem + '.png'!r}, found.labels)")
        return "\n".join(lines) + "\n"


def drawn(marks: str, size: tuple[int, ...], num_labels: int) -> tuple[NDArray[np.int64], Box | None]:
    """Draw strokes as Int64[H, W], -1 elsewhere, and return them with the box.

    Args:
        marks: JSON, a list of ``{"label": n, "width": pixels, "points": [[x, y], …]}`` and
            ``{"box": [x, y, x, y]}``, in the order of painting; the last box counts.
        size: rows and columns.
        num_labels: L.

    Raises: ValueError for anything else, since a browser may send any data.

    >>> strokes, box = drawn('[{"label": 1, "width": 1, "points": [[0, 0], [2, 0]]}]', (2, 3), 2)
    >>> strokes.tolist(), box
    ([[1, 1, 1], [-1, -1, -1]], None)
    """
    height, width = size[0], size[1]
    sheet = Image.new("L", (width, height), VOID)
    draw, box = ImageDraw.Draw(sheet), None
    for mark in _parsed(marks):
        if "box" in mark:
            x, y = _points([mark["box"][:2], mark["box"][2:]], size)
            corners = (min(x[0], y[0]), min(x[1], y[1]), max(x[0], y[0]) + 1, max(x[1], y[1]) + 1)
            box = None if corners[2] - corners[0] < 2 or corners[3] - corners[1] < 2 else corners
            continue
        label, thick = mark["label"], mark["width"]
        if not (isinstance(label, int) and 0 <= label < num_labels):
            raise ValueError(f"label: expected 0..{num_labels - 1}, got {label!r}; clear the other strokes")
        if not (isinstance(thick, int) and 1 <= thick <= WIDEST):
            raise ValueError(f"width: expected 1..{WIDEST} pixels, got {thick!r}")
        points = _points(mark["points"], size)
        draw.point(points, fill=label)  # Pillow draws no line for a single point
        draw.line(points, fill=label, width=thick, joint="curve")
        for x, y in (points[0], points[-1]):  # round ends, and a disk for a single point
            draw.ellipse([x - thick // 2, y - thick // 2, x + thick // 2, y + thick // 2], fill=label)
    strokes = np.asarray(sheet).astype(np.int64)
    return np.where(strokes == VOID, FREE, strokes), box


def _parsed(marks: str) -> list[dict[str, Any]]:
    refused = ValueError("marks: expected strokes and boxes as the page draws them; clear and paint again")
    try:
        found = json.loads(marks or "[]")
    except (ValueError, RecursionError, TypeError) as error:
        raise refused from error
    if not isinstance(found, list) or len(found) > MOST_MARKS:
        raise refused
    for mark in found:
        if not isinstance(mark, dict):
            raise refused
        box, points = mark.get("box"), mark.get("points")
        if box is not None:
            usable = isinstance(box, list) and len(box) == 4
        else:
            usable = isinstance(points, list) and 1 <= len(points) <= MOST_POINTS
            usable = usable and {"label", "width"} <= set(mark)
        if not usable:
            raise refused
    return found


def _points(points: list[Any], size: tuple[int, ...]) -> list[tuple[int, int]]:
    """The points, clipped to the picture."""
    out = []
    for point in points:
        if not (
            isinstance(point, list)
            and len(point) == 2
            and all(isinstance(v, int | float) and abs(v) < 1e6 for v in point)  # neither NaN nor infinity
        ):
            raise ValueError(f"points: expected [x, y] in pixels, got {str(point)[:40]}; paint again")
        out.append(tuple(int(min(max(v, 0), n - 1)) for v, n in zip(point, (size[1], size[0]), strict=True)))
    return out
