# SPDX-License-Identifier: MIT
"""The page's logic for one picture, without Gradio: scores and lattices are kept between changes."""

from __future__ import annotations

import json
import shlex
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.app.knobs import Numbers, numbers_of, tuned
from crfrnn.app.options import WORK_SIDE
from crfrnn.crf import CRFRNN
from crfrnn.inference import Prediction
from crfrnn.inference.prediction import percent
from crfrnn.io import save_parameters, write_label_png
from crfrnn.io.files import write_text
from crfrnn.io.images import write_png
from crfrnn.plots import overlay, painted, shrunk, uncertainty

PARAMETERS = "crf.safetensors"
FRAME_SIDE = 300  # side in pixels of the film's pictures


@dataclass(frozen=True)
class Shown:
    """The pictures of one result on the page.

    Attributes:
        before, after: UInt8[h, w, 3], the labels without and with the CRF over the photograph.
        uncertain: UInt8[h, w, 3], the uncertainty of the marginals.
        prediction: the prediction with marginals, at the page's working size.
        seconds: duration without drawing.
    """

    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
    uncertain: NDArray[np.uint8]
    prediction: Prediction
    seconds: float


class Bench(ABC):
    """A picture with its first labels, and the CRF that refines them.

    Attributes:
        name: the user's name of the photograph's file.
        image: UInt8[h, w, 3] at the page's working size.
        base: the CRF before any number was changed.
        palette: UInt8[K, 3], or None for VOC's.
    """

    name: str
    image: NDArray[np.uint8]
    base: CRFRNN
    names: tuple[str, ...] = ()
    palette: NDArray[np.uint8] | None = None

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folder = tempfile.TemporaryDirectory(prefix="crfrnn-page-")

    @abstractmethod
    def answer(self, crf: CRFRNN) -> Prediction:
        """The labels at the page's working size, with marginals."""

    @abstractmethod
    def final(self, crf: CRFRNN) -> Prediction:
        """The labels for the download, equal to the command's."""

    @abstractmethod
    def steps(self, crf: CRFRNN) -> Iterator[NDArray[np.int64]]:
        """The labels after 0, 1, … iterations, at the page's working size."""

    @abstractmethod
    def command(self, numbers: Numbers) -> str:
        """The command line that writes the same labels."""

    @abstractmethod
    def python(self, numbers: Numbers) -> str:
        """The Python lines that write the same labels."""

    def inputs(self, folder: Path) -> list[Path]:
        """Write the further inputs of command and Python lines to `folder`, besides upload and parameters."""
        return []

    @property
    def stem(self) -> str:
        return Path(self.name).stem

    def crf(self, numbers: Numbers) -> CRFRNN:
        return tuned(self.base, numbers)

    def changed(self, numbers: Numbers) -> bool:
        return dict(numbers) != numbers_of(self.base)

    def show(self, numbers: Numbers) -> Shown:
        """Labels before and after the CRF, and its uncertainty."""
        with self._lock:
            begun = time.perf_counter()
            found = self.answer(self.crf(numbers))
            seconds = time.perf_counter() - begun
        image, before, after = shrunk(self.image, found.before, found.labels, long_side=WORK_SIDE)
        doubt = uncertainty(self.image, found.probabilities)
        return Shown(
            overlay(image, before, self.palette), overlay(image, after, self.palette), doubt, found, seconds
        )

    def film(self, numbers: Numbers) -> list[tuple[NDArray[np.uint8], str]]:
        """One small picture per iteration, with a caption."""
        with self._lock:
            labels = list(self.steps(self.crf(numbers)))
        image, *small = shrunk(self.image, *labels, long_side=FRAME_SIDE)
        moved = [float((before != after).mean()) for before, after in pairwise(labels)]
        said = ["T = 0", *(f"T = {n}: {percent(share)} changed" for n, share in enumerate(moved, 1))]
        return [(overlay(image, found, self.palette), text) for found, text in zip(small, said, strict=True)]

    def files(self, numbers: Numbers) -> list[Path]:
        """Write labels, overlay, areas and parameters; the files exist as long as the bench."""
        with self._lock:
            crf = self.crf(numbers)
            found = self.final(crf)
            folder = Path(tempfile.mkdtemp(dir=self._folder.name))
            stem = folder / self.stem
            labels, over, areas = (stem.with_name(stem.name + e) for e in (".png", "_overlay.png", ".json"))
            write_label_png(labels, found.labels)
            image = self.photograph()
            write_png(painted(image, found.labels, palette=self.palette, names=found.titles), over)
            record = {"picture": self.name, **found.as_dict(), "changed": round(found.changed, 6)}
            write_text(areas, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
            parameters = folder / PARAMETERS
            save_parameters(parameters, crf, provenance={"command": "crfrnn app"})
            return [labels, over, areas, parameters, *self.inputs(folder)]

    def photograph(self) -> NDArray[np.uint8]:
        """The photograph at the size of the downloaded labels."""
        return self.image


def command_line(*words: object) -> str:
    """Words quoted for a shell.

    >>> command_line("crfrnn", "segment", "my cat.jpg", "-T", 3)
    "crfrnn segment 'my cat.jpg' -T 3"
    """
    return shlex.join(str(word) for word in words)


def call(name: str, *given: object, **named: Any) -> str:
    """A call in Python's notation, without arguments that are None.

    >>> call("f", "a.jpg", key=None, size=3)
    "f('a.jpg', size=3)"
    """
    words = [repr(value) for value in given]
    words += [f"{key}={value!r}" for key, value in named.items() if value is not None]
    return f"{name}({', '.join(words)})"
