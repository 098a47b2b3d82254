# SPDX-License-Identifier: MIT
"""The house rules that a machine can check: imports point down only, one licence line, no file too long."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "crfrnn"
FILES = sorted(p for p in PACKAGE.rglob("*.py"))
SOURCES = sorted(
    p
    for folder in ("src", "tests", "benchmarks", "native")
    for p in (ROOT / folder).rglob("*")
    if p.suffix in (".py", ".cpp", ".hpp", ".h")
)

# A room may import from rooms of a lower floor only; rooms of one floor do not know each other.
FLOORS = [
    {"_native", "signals", "extras"},
    {"lattice"},
    {"crf"},
    {"io"},
    {"models"},
    {"datasets", "plots", "compat"},
    {"evaluation", "inference"},
    {"training", "demo"},
    {"experiments", "toolkits"},
    {"commands"},
    {"app", "cli"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms that `path` imports anywhere, also inside functions; `from crfrnn import X` counts as room X."""
    found: set[str] = set()
    package = ["crfrnn", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"crfrnn.{a.name}" for a in node.names] if module == "crfrnn" else [module]
        for name in names:
            parts = name.split(".")
            if parts[0] == "crfrnn":
                found.add(parts[1] if len(parts) > 1 else "")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    if room in ("__init__", "__main__", "_late"):
        return
    assert room in FLOOR, f"{room}: give the new room a floor in FLOORS"
    for other in imported_rooms(path) - {room}:
        if other.startswith("__version"):
            continue
        assert other in FLOOR, f"{path.name} imports crfrnn.{other}: name the room that defines it"
        assert FLOOR[other] < FLOOR[room], f"{room} must not import {other}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_one_licence_line_and_no_swallowed_neighbour(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines and "SPDX-License-Identifier: MIT" in lines[0]
    assert len(lines) <= 400, f"{len(lines)} lines: a file that reaches 400 has swallowed a neighbour"


def test_init_files_are_tables_of_contents() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.If) and ast.unparse(node.test).startswith("TYPE_CHECKING"):
                continue  # what type checkers read where names are imported late
            assert isinstance(node, ast.Import | ast.ImportFrom | ast.Expr | ast.Assign | ast.Try), path
