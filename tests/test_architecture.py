# SPDX-License-Identifier: MIT
"""Rules of the layout: imports point down without circles; one licence line; no long file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "crfrnn"
FILES = sorted(p for p in PACKAGE.rglob("*.py"))
SOURCES = sorted(
    p
    for folder in ("src", "tests", "benchmarks", "experiments", "scripts", "native")
    for p in (ROOT / folder).rglob("*")
    if p.suffix in (".py", ".cpp", ".hpp", ".h")
)

# A package may import only from packages on lower levels, not from others on its own level.
FLOORS = [
    {"_native", "signals", "extras"},
    {"lattice"},
    {"crf"},
    {"io"},
    {"models"},
    {"datasets", "plots", "compat"},
    {"evaluation", "inference"},
    {"training", "demo", "explain"},
    {"experiments", "toolkits", "app", "napari", "bulk"},
    {"commands"},
    {"cli"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


# Files of more than 500 lines, and the reason.
LONG = {"scripts/same_bits.py": "one file, so that it runs in any checkout"}


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def module_of(path: Path) -> str:
    return ".".join(["crfrnn", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")


MODULES = {module_of(path) for path in FILES}


def imported(path: Path, typing: bool = True) -> Iterator[str]:
    """Modules of the package that `path` imports anywhere, also inside functions.

    `from package import name` is the module package.name where there is one, else the package itself. Without
    `typing` what stands under `if TYPE_CHECKING` is left out: it is never run.
    """
    package = ["crfrnn", *path.relative_to(PACKAGE).parts[:-1]]
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and not typing and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            whole = [f"{module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES or module == "crfrnn" else module for name in whole]
        yield from (name for name in names if name.split(".")[0] == "crfrnn")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    if room in ("__init__", "__main__", "_late", "_earlier"):
        return
    assert room in FLOOR, f"{room}: give the new room a floor in FLOORS"
    for other in {".".join(name.split(".")[1:2]) for name in imported(path)} - {room}:
        assert other in FLOOR, f"{path.name} imports crfrnn.{other}: name the room that defines it"
        assert FLOOR[other] < FLOOR[room], f"{room} must not import {other}"


def test_no_file_has_a_circular_import() -> None:
    """No circles, inside a room either, per file.

    Imports inside functions count as those on top: they delay a circle and do not open it. Imports for type
    checkers alone do not count, and neither does that Python runs a package's
    `__init__` before any of its modules: an `__init__` counts where a name is taken from it.
    """
    graph = {module_of(path): set(imported(path, typing=False)) & MODULES for path in FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("imports in a circle: " + " <- ".join(error.args[1]))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_one_licence_line_and_no_swallowed_neighbour(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines and "SPDX-License-Identifier: MIT" in lines[0]
    if len(lines) > 500:
        name = str(path.relative_to(ROOT))
        assert name in LONG, f"{len(lines)} lines: split what is more than one concept, or give LONG a reason"


def test_init_files_are_tables_of_contents() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.If) and ast.unparse(node.test).startswith("TYPE_CHECKING"):
                continue  # for type checkers, where names are imported lazily
            assert isinstance(node, ast.Import | ast.ImportFrom | ast.Expr | ast.Assign | ast.Try), path
