# SPDX-License-Identifier: MIT
"""Example photographs from scikit-image and scikit-learn, if installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crfrnn.io.images import write_png


@dataclass(frozen=True)
class Example:
    """A photograph: its name on the page, its file name, its package and loader, its author."""

    title: str
    file: str
    package: str
    load: Callable[[], Any]
    credit: str

    @property
    def there(self) -> bool:
        return find_spec(self.package) is not None

    def image(self) -> NDArray[np.uint8]:
        return np.asarray(self.load(), np.uint8)

    def write(self, folder: Path) -> Path:
        """Write it as a PNG to `folder`."""
        path = folder / self.file
        if not path.exists():
            write_png(Image.fromarray(self.image()), path)
        return path


def _skimage(name: str) -> Callable[[], Any]:
    def load() -> Any:
        from skimage import data

        return getattr(data, name)()

    return load


def _sklearn(name: str) -> Callable[[], Any]:
    def load() -> Any:
        from sklearn.datasets import load_sample_image

        return load_sample_image(name)

    return load


EXAMPLES = (
    Example("Astronaut", "astronaut.png", "skimage", _skimage("astronaut"), "NASA, public domain"),
    Example("Cat", "cat.png", "skimage", _skimage("chelsea"), "Stéfan van der Walt, CC0"),
    Example("Temple", "china.png", "sklearn", _sklearn("china.jpg"), "danielbuechele, CC BY 2.0"),
    Example("Flower", "flower.png", "sklearn", _sklearn("flower.jpg"), "vultilion, CC BY 2.0"),
)


def examples() -> tuple[Example, ...]:
    """The examples whose package is installed."""
    return tuple(example for example in EXAMPLES if example.there)
