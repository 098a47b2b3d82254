# SPDX-License-Identifier: MIT
"""Uploaded scores of any network with their photograph, as in `crfrnn refine`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.app.bench import Bench, call, command_line
from crfrnn.app.knobs import KNOBS, Numbers
from crfrnn.app.options import MOST_SCORES, Options
from crfrnn.crf import CRFRNN
from crfrnn.inference import Held, Prediction, refine
from crfrnn.io import read_image, read_unary


@dataclass(frozen=True)
class Reading:
    """The meaning of the numbers in a file, as options of `crfrnn refine`; see `crfrnn.io.read_unary`."""

    kind: str
    layout: str | None = None
    labels: int | None = None
    gt_prob: float = 0.7
    void: int | None = None
    key: str | None = None


class Scores(Bench):
    """A photograph and its unary."""

    def __init__(
        self, path: Path, name: str, unary: Path, unary_name: str, reading: Reading, options: Options
    ) -> None:
        super().__init__()
        self.name, self._file, self._reading = name, unary_name, reading
        self.image = read_image(path, max_pixels=options.max_pixels)
        size = (self.image.shape[0], self.image.shape[1])
        if (reading.labels or 2) * math.prod(size) > MOST_SCORES:
            raise ValueError(_too_many(reading.labels or 2, size))
        found = read_unary(
            unary, kind=reading.kind, axes=reading.layout, size=size, picture=path, num_labels=reading.labels,
            gt_prob=reading.gt_prob, unknown=reading.void, key=reading.key, max_bytes=8 * MOST_SCORES,
        )  # fmt: skip
        if found.logits.numel() > MOST_SCORES:
            raise ValueError(_too_many(len(found.logits), size))
        self._unary, self._held = found, Held(self.image)
        self.base = CRFRNN(len(found.logits)).eval()

    def crf(self, numbers: Numbers) -> CRFRNN:
        """The CRF built from the numbers, as by the command."""
        given: dict[str, Any] = {name: value for name, value in numbers.items() if name != "iterations"}
        return CRFRNN(len(self._unary.logits), **given, iterations=int(numbers["iterations"])).eval()

    def answer(self, crf: CRFRNN) -> Prediction:
        return refine(self._held, self._unary.logits, crf, clamp=self._unary.clamp)

    final = answer

    def steps(self, crf: CRFRNN) -> Iterator[NDArray[np.int64]]:
        return self._held.steps(self._unary.logits, crf, clamp=self._unary.clamp)

    def command(self, numbers: Numbers) -> str:
        said = self._reading
        words: list[object] = ["crfrnn", "refine", self.name, "--unary", self._file]
        words += ["--kind", said.kind]
        for option, value in (
            ("--layout", said.layout), ("--labels", said.labels), ("--void", said.void), ("--key", said.key),
            ("--gt-prob", None if said.gt_prob == Reading.gt_prob else said.gt_prob),
        ):  # fmt: skip
            words += [] if value is None else [option, value]
        for knob in KNOBS:
            words += [knob.option, numbers[knob.name]]
        return command_line(*words, "-o", "refined/")

    def python(self, numbers: Numbers) -> str:
        said = self._reading
        reading = call(
            "read_unary", self._file, kind=said.kind, axes=said.layout, num_labels=said.labels,
            gt_prob=None if said.gt_prob == Reading.gt_prob else said.gt_prob, unknown=said.void,
            key=said.key,
        )  # fmt: skip
        numbered = ", ".join(f"{knob.name}={numbers[knob.name]!r}" for knob in KNOBS)
        return (
            "from crfrnn import CRFRNN\n"
            "from crfrnn.inference import refine\n"
            "from crfrnn.io import read_image, read_unary, write_label_png\n\n"
            f"image = {call('read_image', self.name)}\n"
            f"unary = {reading}\n"
            f"crf = CRFRNN(len(unary.logits), {numbered})\n"
            "found = refine(image, unary.logits, crf, clamp=unary.clamp)\n"
            f"write_label_png({self.stem + '.png'!r}, found.labels)\n"
        )


def _too_many(labels: int, size: tuple[int, int]) -> str:
    return (
        f"unary: expected at most {MOST_SCORES} scores on this page, got {labels} labels × "
        f"{size[0]} × {size[1]} pixels; use crfrnn refine on your own machine"
    )
