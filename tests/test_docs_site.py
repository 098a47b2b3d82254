# SPDX-License-Identifier: MIT
"""The documentation builds with both builders, its links have targets, and it loads no other site."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import crfrnn

ROOT = Path(__file__).resolve().parents[1]
SITE, NOTEBOOKS = ROOT / "build" / "site", ROOT / "build" / "notebooks"
TUTORIALS = sorted(path.stem for path in (ROOT / "docs" / "tutorials").glob("*.py"))
for needed in ("mkdocs", "material", "mkdocstrings", "jupytext", "IPython", "matplotlib"):
    pytest.importorskip(needed)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


class Page(HTMLParser):
    """The links, loaded files and anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.images = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag == "link" and found.get("rel") not in ("next", "prev", "canonical"):
            self.loaded.append(found.get("href", ""))
        if tag in ("img", "script", "iframe", "source", "video", "audio", "object", "embed"):
            self.images += tag == "img"
            self.loaded += [found[name] for name in ("src", "data", "srcset") if name in found]


def built(*words: str) -> dict[Path, Page]:
    """The pages of build/site after scripts/docs.py."""
    done = subprocess.run(
        [sys.executable, "scripts/docs.py", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return {path: Page(path) for path in sorted(SITE.rglob("*.html"))}


@pytest.fixture(scope="module")
def pages() -> dict[Path, Page]:
    """Built by MkDocs, strict; every tutorial has run."""
    return built()


def outside(site: dict[Path, Page]) -> Iterator[tuple[str, str]]:
    """(file, URL) of everything that a page or a style sheet loads from elsewhere."""
    for path, page in site.items():
        for url in page.loaded:
            if re.match(r"(\w+:)?//", url):
                yield path.name, url
    for sheet in SITE.rglob("*.css"):
        for url in re.findall(
            r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')\s]+)", sheet.read_text("utf-8")
        ):
            yield sheet.name, url


def broken(site: dict[Path, Page]) -> Iterator[tuple[str, str]]:
    """(page, link) of every link within the site without a target."""
    for path, page in site.items():
        for link in {*page.links, *page.loaded}:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or (
                parts.fragment and target in site and unquote(parts.fragment) not in site[target].ids
            ):
                yield path.relative_to(SITE).as_posix(), link


def test_nothing_is_loaded_from_elsewhere(pages: dict[Path, Page]) -> None:
    assert sum(len(page.loaded) for page in pages.values()) > 100
    assert list(outside(pages)) == []


def test_every_link_has_a_target(pages: dict[Path, Page]) -> None:
    assert sum(len(page.links) for page in pages.values()) > 500
    assert list(broken(pages)) == []


def test_every_public_name_has_its_place_in_the_api(pages: dict[Path, Page]) -> None:
    found: defaultdict[str, int] = defaultdict(int)
    for path, page in pages.items():
        for name in page.ids if path.parent.name == "api" else ():
            found[name.rpartition(".")[2]] += 1
    assert [name for name in crfrnn.__all__ if not found[name]] == []


def test_docstrings_are_shown_with_their_examples(pages: dict[Path, Page]) -> None:
    text = (SITE / "api" / "crf.html").read_text(encoding="utf-8")
    assert "CRFRNN" in text and "eval_iterations" in text and "<blockquote>" not in text
    assert '<span class="formula"><math><mi>x</mi><mo>←</mo><mi>U</mi><mo>−</mo><mi>μ</mi>' in text


@pytest.mark.parametrize("name", TUTORIALS)
def test_a_tutorial_has_run_and_is_a_notebook_too(pages: dict[Path, Page], name: str) -> None:
    import nbformat

    page = pages[SITE / "tutorials" / f"{name}.html"]
    text = (SITE / "tutorials" / f"{name}.html").read_text(encoding="utf-8")
    assert page.images >= 2 and "<code>$" not in text and "$$" not in text
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[0].source.startswith("# ") and "crfrnn" in notebook.cells[1].source
    source = (ROOT / "docs" / "tutorials" / f"{name}.py").read_text(encoding="utf-8")
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert code and all(cell in source for cell in code)


def test_every_page_is_in_the_navigation(pages: dict[Path, Page]) -> None:
    """The pages of this checkout, except the tables next to the results."""
    linked = {
        (path.parent / unquote(urlsplit(link).path)).resolve()
        for path in (SITE / "index.html", *(SITE / "api").glob("*.html"))
        for link in pages[path].links
        if not urlsplit(link).scheme
    }
    written = [p.relative_to(SITE).as_posix() for p in pages if p not in linked and "results" not in p.parts]
    assert written == ["404.html"], "a page of docs/ is not in the nav of mkdocs.yml"


def test_zensical_builds_the_same_pages(pages: dict[Path, Page]) -> None:
    pytest.importorskip("zensical")
    again = built("--keep-pages", "--builder", "zensical")
    assert set(again) == set(pages)
    assert list(outside(again)) == []
