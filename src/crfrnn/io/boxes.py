# SPDX-License-Identifier: MIT
"""Bounding boxes: four numbers, or a JSON file with boxes by picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crfrnn.io.files import FileError, PathLike, existing, read_text

Box = tuple[int, int, int, int]
MAX_BYTES = 2**26  # a million boxes
_FORM = "four whole numbers left, top, right, bottom"
_REMEDY = 'write {"cat.jpg": [60, 10, 400, 290], …}, in pixels, right and bottom excluded'


@dataclass(frozen=True)
class Boxes:
    """One box for all pictures, or boxes by the name of the picture.

    Attributes:
        every: (left, top, right, bottom) in pixels, right and bottom excluded; None if they have names.
        named: boxes by name, with or without ending and folders.
        path: the file, for messages.
    """

    every: Box | None = None
    named: Mapping[str, Box] | None = None
    path: PathLike = ""

    def of(self, picture: PathLike) -> Box:
        """The box of a picture, by its path, name or stem; FileError if there is none.

        >>> Boxes(named={"cat": (60, 10, 400, 290)}).of("photos/cat.jpg")
        (60, 10, 400, 290)
        """
        if self.every is not None:
            return self.every
        path, named = Path(picture), self.named or {}
        for name in (path.as_posix(), path.name, path.stem):
            if name in named:
                return named[name]
        raise FileError("box", self.path, f"a box named {path.name!r}", f"none of {len(named)}", _REMEDY)


def read_boxes(path: PathLike) -> Boxes:
    """Read boxes from a JSON file: an object with boxes by the picture's name, or one list for all pictures.

    Raises:
        ValueError: no such file, too large, not JSON, or another form.

    >>> import tempfile
    >>> name = Path(tempfile.mkdtemp()) / "boxes.json"
    >>> _ = name.write_text('{"cat.jpg": [60, 10, 400, 290]}')
    >>> read_boxes(name).of("cat.jpg")
    (60, 10, 400, 290)
    """
    size = existing(path, "box").stat().st_size
    if size > MAX_BYTES:
        raise FileError("box", path, f"at most {MAX_BYTES} bytes", f"{size}", "split the file")
    try:
        held = json.loads(read_text(path, "box"))
    except FileError:
        raise
    except (ValueError, RecursionError) as error:
        raise FileError("box", path, "JSON", f"{type(error).__name__}: {error}", _REMEDY) from error
    if isinstance(held, list):
        return Boxes(every=_box(held, path), path=path)
    if not isinstance(held, dict) or not held:
        raise FileError("box", path, "boxes by name, or one list", f"{held!r:.40}", _REMEDY)
    return Boxes(named={name: _box(value, path) for name, value in held.items()}, path=path)


def boxes_from(text: str) -> Boxes:
    """Boxes from a command line: ``LEFT,TOP,RIGHT,BOTTOM``, or the name of a JSON file.

    >>> boxes_from("60,10,400,290").of("cat.jpg")
    (60, 10, 400, 290)
    """
    words = text.split(",")
    if len(words) > 1 and not Path(text).is_file():
        try:
            numbers = [int(word) for word in words]
        except ValueError:
            numbers = []
        if len(numbers) != 4:
            raise ValueError(f"box: expected {_FORM}, or a JSON file, got {text!r:.60}; write 60,10,400,290")
        return Boxes(every=(numbers[0], numbers[1], numbers[2], numbers[3]))
    return read_boxes(text)


def _box(value: Any, path: PathLike) -> Box:
    usable = isinstance(value, list) and len(value) == 4
    if not usable or not all(isinstance(v, int) and not isinstance(v, bool) for v in value):
        raise FileError("box", path, _FORM, f"{value!r:.60}", _REMEDY)
    return value[0], value[1], value[2], value[3]
