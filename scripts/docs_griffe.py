# SPDX-License-Identifier: MIT
"""Docstrings prepared for mkdocstrings: examples in fences, one argument per line, equations typeset."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).resolve().parent))  # mkdocstrings loads this file by its path
import docs_mathml

_EXAMPLE = re.compile(r"^>>> .*?(?=\n[ ]*\n(?!>>> )|\Z)", re.M | re.S)
_SECTION = re.compile(r"^(?:Args|Attributes):\n(?:(?: {4}.*)?\n)+", re.M)
_SEVERAL = re.compile(r"^    (\w+(?:, \w+)+): ((?:.*\n)(?:^ {5,}.*\n)*)", re.M)


class Readable(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: Any, **kwargs: Any) -> None:
        """Visit every object once, after its module has been read."""
        if obj.docstring:
            obj.docstring.value = readable(obj.docstring.value)


def readable(text: str) -> str:
    r"""A docstring with its examples in fences, arguments that share a line of `Args:` on a line each, and
    equations as MathML.

    >>> print(readable("Sum.\n\nArgs:\n    a, b: numbers."))
    Sum.
    <BLANKLINE>
    Args:
        a: numbers.
        b: numbers.
    """

    def each(found: re.Match[str]) -> str:
        return "".join(f"    {name}: {found[2]}" for name in found[1].split(", "))

    text = _SECTION.sub(lambda found: _SEVERAL.sub(each, found[0]), text + "\n").rstrip("\n")
    text = docs_mathml.typeset(text)
    return _EXAMPLE.sub(lambda found: f"```pycon\n{found[0]}\n```", text)
