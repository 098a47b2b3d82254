# SPDX-License-Identifier: MIT
"""Tutorials in jupytext's percent format, run cell by cell into Markdown with figures; and notebooks.

A cell with the tag `figure` only draws: its code is folded away on the page.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import numpy as np
import torch
from IPython.core.displayhook import CapturingDisplayHook
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

NEEDS = (
    "This notebook needs the package `crfrnn`, installed from its sources with the extras `demo`, `plots`, "
    "`train` and `medical`. It runs in seconds on one thread."
)


def write(source: Path, pages: Path, notebooks: Path) -> None:
    """Run a tutorial; write its page, its figures and its notebook (without outputs).

    Raises: RuntimeError that names the cell where the code fails.
    """
    notebook = jupytext.reads(source.read_text(encoding="utf-8").partition("\n")[2], fmt="py:percent")
    notebook.cells = [cell for cell in notebook.cells if cell.source.strip()]
    pages.mkdir(parents=True, exist_ok=True)
    page = "\n".join(executed(source, notebook, pages))
    (pages / f"{source.stem}.md").write_text(page, encoding="utf-8")
    notebooks.mkdir(parents=True, exist_ok=True)
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell(NEEDS))
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # otherwise random, so that every build would differ
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(notebook, notebooks / f"{source.stem}.ipynb")


def executed(source: Path, notebook: Any, pages: Path) -> list[str]:
    """The page's Markdown, in parts; figures are written to `pages`. Cells run in a separate folder."""
    shell: Any = InteractiveShell.instance()
    shell.reset()
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - of what a cell draws without a generator of its own
    parts: list[str] = []
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            title = source.stem
            for number, cell in enumerate(notebook.cells):
                if cell.cell_type == "markdown":
                    title = heading(cell.source) or title
                    parts.append(cell.source + "\n")
                elif cell.cell_type == "code":
                    parts += _code(shell, source, number, cell, pages, title)
        finally:
            os.chdir(before)
    return parts


def heading(markdown: str) -> str:
    r"""The last heading in plain words, or nothing.

    >>> heading("# A\n\n## $\\theta_\\beta$: colour\n\nText # 1")
    'theta_beta: colour'
    """
    found = [line for line in markdown.splitlines() if line.startswith("#")]
    return re.sub(r"[$\\\[\]#]", "", found[-1]).strip() if found else ""


def _code(shell: Any, source: Path, number: int, cell: Any, pages: Path, title: str) -> list[str]:
    results: list[dict[str, Any]] = []
    shell.display_trap.hook = CapturingDisplayHook(shell, results)  # the value of the last line
    with capture_output() as said:
        result = shell.run_cell(cell.source)
    if not result.success:
        error = result.error_before_exec or result.error_in_exec
        raise RuntimeError(f"{source.name}, cell {number}: expected it to run, got {error!r}\n{cell.source}")
    fence = f"```python\n{cell.source}\n```\n"
    if "figure" in cell.metadata.get("tags", ()):
        indented = "\n".join("    " + line if line else "" for line in fence.splitlines())
        fence = f'??? note "Code of the figure"\n\n{indented}\n'
    parts = [fence]
    if said.stdout.strip():
        parts.append(f"```text\n{said.stdout.rstrip()}\n```\n")
    for index, data in enumerate(
        [*(output.data for output in said.outputs), *(one["data"] for one in results)]
    ):
        if "image/png" in data:
            name = f"{source.stem}-{number}-{index}.png"
            (pages / name).write_bytes(data["image/png"])
            parts.append(f"![Figure: {title}]({name})\n")
        elif "text/plain" in data:
            parts.append(f"```text\n{data['text/plain']}\n```\n")
    return parts
