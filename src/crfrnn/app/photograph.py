# SPDX-License-Identifier: MIT
"""A photograph with the labels of the network and of the CRF."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crfrnn.app.bench import PARAMETERS, Bench, call, command_line
from crfrnn.app.knobs import Numbers
from crfrnn.app.options import WORK_SIDE, Options
from crfrnn.crf import CRFRNN
from crfrnn.inference import Prediction, Predictor
from crfrnn.io import read_image
from crfrnn.plots import shrunk


@dataclass(frozen=True)
class Network:
    """The network of the page, read once for all clients.

    Attributes:
        predictor: the predictor, at the page's long side.
        checkpoint: the user's name for it, or None.
        shortened: whether the checkpoint's long side is larger, so that commands must state the page's.
    """

    predictor: Predictor
    checkpoint: str | None
    shortened: bool

    @staticmethod
    def of(options: Options) -> Network:
        predictor = Predictor.from_pretrained(options.checkpoint)
        own = predictor.long_side
        shortened = own is None or own > WORK_SIDE
        if shortened:
            predictor.long_side = WORK_SIDE
        return Network(predictor, options.checkpoint, shortened)


class Photograph(Bench):
    """A photograph, segmented at the network's long side, and its labels at the original size."""

    def __init__(self, path: Path, name: str, network: Network, options: Options) -> None:
        super().__init__()
        self.name, self._network = name, network
        self._whole = read_image(path, max_pixels=options.max_pixels)
        self._seen = network.predictor.see(self._whole)
        self.names = self._seen.class_names
        layer = network.predictor.segmenter.crf
        self.base = (CRFRNN(len(self._seen.unary)) if layer is None else layer).eval()
        (self.image,) = shrunk(self._whole, long_side=WORK_SIDE)

    def answer(self, crf: CRFRNN) -> Prediction:
        return self._seen.at(crf, WORK_SIDE)

    def final(self, crf: CRFRNN) -> Prediction:
        return self._seen(crf)

    def steps(self, crf: CRFRNN) -> Iterator[NDArray[np.int64]]:
        for labels in self._seen.guide.steps(self._seen.unary, crf):
            yield enlarged(labels, self.image.shape[:2])

    def photograph(self) -> NDArray[np.uint8]:
        return self._whole

    def command(self, numbers: Numbers) -> str:
        words: list[object] = ["crfrnn", "segment", self.name, "-o", "segmented/"]
        if self._network.checkpoint is not None:
            words += ["--checkpoint", self._network.checkpoint]
        if self._side is not None:
            words += ["--long-side", self._side]
        if self.changed(numbers):
            words += ["--params", PARAMETERS]
        return command_line(*words)

    def python(self, numbers: Numbers) -> str:
        reads = "load_parameters, " if self.changed(numbers) else ""
        lines = ["from crfrnn import Predictor", f"from crfrnn.io import {reads}write_label_png", ""]
        options = [] if self._network.checkpoint is None else [repr(self._network.checkpoint)]
        if self.changed(numbers):
            lines.append(f"crf = load_parameters({PARAMETERS!r}).crf")
            options.append("crf=crf")
        if self._side is not None:
            options.append(f"long_side={self._side}")
        lines += [
            f"predictor = Predictor.from_pretrained({', '.join(options)})",
            f"found = {call('predictor', self.name)}",
            f"write_label_png({self.stem + '.png'!r}, found.labels)",
        ]
        return "\n".join(lines) + "\n"

    @property
    def _side(self) -> int | None:
        """The long side that a command must state."""
        larger = max(self._whole.shape[:2]) > WORK_SIDE
        return WORK_SIDE if larger and self._network.shortened else None


def enlarged(labels: NDArray[np.int64], size: tuple[int, ...]) -> NDArray[np.int64]:
    """Resize labels by the nearest pixel.

    >>> enlarged(np.array([[0, 1]]), (2, 4)).tolist()
    [[0, 0, 1, 1], [0, 0, 1, 1]]
    """
    y, x = ((np.arange(n) + 0.5) * (m / n) for n, m in zip(size, labels.shape, strict=True))
    return labels[y.astype(int)][:, x.astype(int)]
