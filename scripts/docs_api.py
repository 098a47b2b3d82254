# SPDX-License-Identifier: MIT
"""Pages of the API: the exported names of every package; mkdocstrings renders their docstrings."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

# Page, description, and the modules whose public names it shows; for the package itself its own list.
ROOMS = (
    ("crf", "The model: layer, mean field, kernels, energies, losses", ("crfrnn.crf",)),
    ("lattice", "Lattices and exact filters", ("crfrnn.lattice",)),
    ("models", "Networks", ("crfrnn.models",)),
    (
        "inference",
        "Network and CRF over a picture",
        ("crfrnn.inference", "crfrnn.inference.refine"),
    ),
    ("interact", "Scribbles, seeds and boxes", ("crfrnn.inference.interact",)),
    ("pseudo", "Pseudo-labels", ("crfrnn.inference.pseudo",)),
    ("plots", "Pictures to look at", ("crfrnn.plots", "crfrnn.explain")),
    ("io", "Files that people have", ("crfrnn.io",)),
    ("datasets", "Data sets", ("crfrnn.datasets",)),
    ("evaluation", "Scores and intervals", ("crfrnn.evaluation",)),
    ("training", "Training and fitting", ("crfrnn.training",)),
    ("experiments", "The paper's tables", ("crfrnn.experiments",)),
    ("toolkits", "Other toolkits", ("crfrnn.toolkits",)),
)


def write(folder: Path) -> None:
    """Write a page per subpackage and the page of the package's own names."""
    folder.mkdir(parents=True, exist_ok=True)
    package = importlib.import_module("crfrnn")
    lines = ["# API", "", "Names of the package itself:", "", "| | |", "|---|---|"]
    places = {}
    for page, title, modules in ROOMS:
        found = [entry for module in modules for entry in public(importlib.import_module(module))]
        text = [f"# {title}", "", *(f"`{module}`" for module in modules), ""]
        for _, path in sorted(dict.fromkeys(found)):
            text += [f"::: {path}", ""]
            places[path] = page
        (folder / f"{page}.md").write_text("\n".join(text), encoding="utf-8")
    for name in sorted(package.__all__):
        path = path_of(getattr(package, name))
        summary = (inspect.getdoc(getattr(package, name)) or "").splitlines()[0].replace("|", "&#124;")
        lines.append(f"| [`crfrnn.{name}`]({places[path]}.md#{path}) | {summary} |")
    lines += ["", "All rooms:", ""]
    for page, title, modules in ROOMS:
        lines.append(f"- [{title}]({page}.md): {', '.join(f'`{module}`' for module in modules)}")
    (folder / "index.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def public(module: ModuleType) -> list[tuple[str, str]]:
    """(name, path of the definition) of the documented classes and functions that a module exports.

    Without `__all__` those that it, or a module of its package, defines.
    """
    listed = getattr(module, "__all__", None)
    out = []
    for name in listed or [name for name in vars(module) if not name.startswith("_")]:
        value = getattr(module, name)
        if not (inspect.isclass(value) or inspect.isfunction(value)) or not inspect.getdoc(value):
            continue
        home = value.__module__
        if home == module.__name__ or home.startswith("crfrnn." if listed else f"{module.__name__}."):
            out.append((name.lower(), path_of(value)))
    return out


def path_of(value: Any) -> str:
    """Where a class or function is defined, as mkdocstrings finds it."""
    return f"{value.__module__}.{value.__qualname__}"
