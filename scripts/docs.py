# SPDX-License-Identifier: MIT
"""Build the documentation: pages of docs/, tutorials run from their sources, API, tables from CSV.

    python scripts/docs.py                     build/site by MkDocs; tutorials as build/notebooks/*.ipynb
    python scripts/docs.py --builder zensical  the same pages by Zensical
    python scripts/docs.py --pages-only        build/docs only, the input of both builders

Needs the extras `docs`, `demo`, `plots`, `train` and `medical`; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tutorials run on one thread

import docs_api
import docs_math
import docs_tables
import docs_tutorials

ROOT = Path(__file__).resolve().parents[1]
SOURCE, BUILD = ROOT / "docs", ROOT / "build"
PAGES, SITE, NOTEBOOKS = BUILD / "docs", BUILD / "site", BUILD / "notebooks"
# Not copied to the pages: sources of generated files.
_SOURCES = shutil.ignore_patterns("*.py", "__pycache__", "*.safetensors", "tuned.json")


def write_pages() -> None:
    """Write build/docs, the complete input of the builders."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(SOURCE, PAGES, ignore=_SOURCES)
    for source in sorted((SOURCE / "tutorials").glob("*.py")):
        print("tutorial", source.name, flush=True)
        docs_tutorials.write(source, PAGES / "tutorials", NOTEBOOKS)
    docs_api.write(PAGES / "api")
    docs_tables.write(PAGES, SOURCE / "results", ROOT / "benchmarks" / "results")
    for page in PAGES.rglob("*.md"):
        docs_math.draw_equations(page, PAGES)


def build(builder: str) -> None:
    """Build build/site; CalledProcessError where a link or a page is wrong."""
    shutil.rmtree(SITE, ignore_errors=True)
    words = {
        "mkdocs": ["-m", "mkdocs", "build", "--strict", "--quiet"],
        "zensical": ["-m", "zensical", "build", "--clean", "--strict"],
    }
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "true", "DISABLE_MKDOCS_2_WARNING": "true"}
    subprocess.run([sys.executable, *words[builder]], cwd=ROOT, check=True, env=environment)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the documentation.")
    parser.add_argument("--builder", choices=("mkdocs", "zensical"), default="mkdocs")
    parser.add_argument("--pages-only", action="store_true", help="stop before the builder")
    parser.add_argument("--keep-pages", action="store_true", help="build what an earlier call wrote")
    chosen = parser.parse_args()
    if not chosen.keep_pages:
        write_pages()
    if not chosen.pages_only:
        build(chosen.builder)
        print(SITE / "index.html")


if __name__ == "__main__":
    main()
