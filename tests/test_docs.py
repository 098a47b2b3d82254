# SPDX-License-Identifier: MIT
"""README.md and the pages of docs/: every Python block runs unchanged, every command line exists."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer

from crfrnn.commands.parser import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "paper").glob("*.md")),
    *sorted((ROOT / "docs" / "tutorials").glob("*.py")),
]
# `<!-- needs: torchvision -->` above a block says what it needs besides the package and its extra `dev`.
BLOCK = re.compile(
    r"^(?:<!-- needs: (?P<needs>[\w, ]+) -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)


def said_in(page: Path) -> str:
    """A page's Markdown; of a tutorial, whose code test_docs_site.py runs, that in its comments."""
    text = page.read_text(encoding="utf-8")
    return re.sub("^# ?", "", text, flags=re.M) if page.suffix == ".py" else text


def blocks(*kinds: str) -> Iterator[Any]:
    """(text, what it needs) of every block of these kinds, called by page and line."""
    for page in PAGES:
        said = said_in(page)
        for found in BLOCK.finditer(said):
            if found["kind"] in kinds:
                line = said.count("\n", 0, found.start("text")) + 1
                needs = (found["needs"] or "").replace(",", " ").split()
                yield pytest.param(found["text"], needs, id=f"{page.name}-{line}")


def absent(need: str) -> bool:
    return not torch.cuda.is_available() if need == "cuda" else importlib.util.find_spec(need) is None


@pytest.fixture
def modules() -> Iterator[None]:
    """Modules that a block installs under another library's name are removed afterwards."""
    before = dict(sys.modules)
    yield
    for name in set(sys.modules) - set(before):
        if name.split(".")[0] == "pydensecrf":
            del sys.modules[name]
    sys.modules.update({name: module for name, module in before.items() if name.startswith("pydensecrf")})


@pytest.mark.slow
@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(("text", "needs"), list(blocks("python")))
def test_a_python_block_runs_unchanged(
    text: str, needs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing := [need for need in needs if absent(need)]:
        pytest.skip(f"needs {', '.join(missing)}")
    monkeypatch.chdir(tmp_path)
    np.random.seed(0)  # noqa: NPY002 - of what a block draws without a generator of its own
    exec(compile(text, "block", "exec"), {"__name__": "__main__"})


def test_the_start_page_has_the_figures_and_the_code_of_the_readme() -> None:
    readme = PAGES[0].read_text(encoding="utf-8")
    start = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    figures = [line for line in start.splitlines() if line.startswith("|") and re.search(r"\d\.\d", line)]
    assert len(figures) == 10
    assert [line for line in figures if line not in readme] == []
    assert [text for text in re.findall(r"```python\n.*?```", start, re.S) if text not in readme] == []


def test_files_that_the_pages_name_exist() -> None:
    """`folder/file.py` in a page is in the checkout or the package; other systems' folders are left out."""
    named = re.compile(r"`([\w-]+)/([\w/.-]+\.(?:py|cpp|hpp|sh|yaml))(?:::\w+)?`")
    tops = (ROOT, ROOT / "src" / "crfrnn")
    missing = [
        f"{page.name}: {found[0]}"
        for page in PAGES
        for found in named.finditer(page.read_text(encoding="utf-8"))
        for places in [[top / found[1] for top in tops if (top / found[1]).is_dir()]]
        if places and not any((place / found[2]).is_file() for place in places)
    ]
    assert not missing


def command_lines(text: str) -> Iterator[list[str]]:
    """The words of each `crfrnn ...` line, without its comment."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("crfrnn "):
            yield shlex.split(line, comments=True)[1:]


def examples() -> Iterator[Any]:
    """The command lines of the pages, and those of the commands' own help."""
    said = [(found.id, found.values[0]) for found in blocks("", "sh", "bash", "console")]
    for group in (app, *(found.typer_instance for found in app.registered_groups)):
        for command in group.registered_commands if group else ():
            text = inspect.getdoc(command.callback) or ""
            said.append(("help", re.sub("^Example: ", "", text, flags=re.M)))
    for source, text in said:
        for words in command_lines(text):
            yield pytest.param(words, id=f"{source}-{shlex.join(words)[:40]}")


@pytest.mark.parametrize("words", list(examples()))
def test_a_command_line_exists_with_its_options(words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):  # experiment has commands of its own
        name, *words = words
        command = command.commands[name]
    command.make_context(command.name, words)  # an exception for an unknown or a missing option


def test_installation_lines_name_extras_and_no_release() -> None:
    """Until there is a release, an extra is installed from the sources."""
    sources = [*PAGES, *sorted((ROOT / "src").rglob("*.py"))]
    texts = {path: path.read_text(encoding="utf-8") for path in sources}
    assert [path for path, text in texts.items() if re.search(r"install '?crfrnn\b", text)] == []
    section = (
        (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.optional-dependencies]")[1]
    )
    extras = set(re.findall(r"^(\w+) = \[", section.split("[project.scripts]")[0], re.M))
    named = {
        name for text in texts.values() for name in re.findall(r"""(?:install_line\(["']|'\.\[)(\w+)""", text)
    }
    assert {"train", "geo", "medical"} <= named <= extras
