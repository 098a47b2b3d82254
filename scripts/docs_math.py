# SPDX-License-Identifier: MIT
"""Equations of Markdown pages as SVG, drawn by matplotlib: readers need no script, no font and no network."""

from __future__ import annotations

import hashlib
import io
import os
import re
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import mathtext
from matplotlib.font_manager import FontProperties

SIZE = 13.0  # points; the text of a page has about 12
# Code first, so that a $ in it is ignored; then blocks, then equations within a line.
_PARTS = re.compile(
    r"(?P<code>^[ ]*(?P<fence>`{3,}|~{3,}).*?^[ ]*(?P=fence)[ ]*$|(?P<tick>`+)(?!`).+?(?<!`)(?P=tick)(?!`))"
    r"|^[ ]*\$\$(?P<block>.+?)\$\$[ ]*$"
    r"|(?<![\\$\w])\$(?P<inline>[^\s$](?:[^$\n]*[^\s$\\])?)\$(?![\w$])",
    re.M | re.S,
)


def draw_equations(page: Path, root: Path) -> None:
    """Replace every $…$ and $$…$$ of a page below `root` by a picture.

    The lines of a block end with two backslashes.
    """
    here = os.path.relpath(root / "assets" / "math", page.parent).replace(os.sep, "/")

    def picture(found: re.Match[str]) -> str:
        if found["code"]:
            return found[0]
        if found["inline"]:
            return _image(found["inline"], root, here)
        lines = [line.strip() for line in found["block"].split(r"\\")]
        inside = "<br>".join(_image(line, root, here, block=True) for line in lines if line)
        return f'\n<p class="equation">{inside}</p>\n'

    text = page.read_text(encoding="utf-8")
    drawn = _PARTS.sub(picture, text)
    if drawn != text:
        page.write_text(drawn, encoding="utf-8")


def _image(formula: str, root: Path, here: str, block: bool = False) -> str:
    formula = " ".join(formula.split())
    name = hashlib.sha256(formula.encode()).hexdigest()[:16] + ".svg"
    target = root / "assets" / "math" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    svg, width, height, depth = _drawn(formula)
    target.write_bytes(svg)
    alt = "".join(f"&#{ord(c)};" if c in "\\_*<>&\"'|$`[]{}()~^" else c for c in formula)
    place = "" if block else f"vertical-align:{-depth / SIZE:.3f}em;"
    size = f"width:{width / SIZE:.3f}em;height:{height / SIZE:.3f}em"
    return f'<img class="math" alt="{alt}" src="{here}/{name}" style="{place}{size}">'


def _drawn(formula: str) -> tuple[bytes, float, float, float]:
    """SVG, and width, height and depth below the baseline in points."""
    out = io.BytesIO()
    style: dict[Any, Any] = {
        "mathtext.fontset": "cm",
        "svg.hashsalt": "crfrnn",
        "svg.fonttype": "path",
        "savefig.transparent": True,
    }
    with matplotlib.rc_context(style):
        font = FontProperties(size=SIZE)
        width, height, depth, *_ = mathtext.MathTextParser("path").parse(f"${formula}$", dpi=72, prop=font)
        mathtext.math_to_image(f"${formula}$", out, prop=font, format="svg")
    return out.getvalue(), width, height, depth
