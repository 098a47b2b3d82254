# SPDX-License-Identifier: MIT
"""The changes that scripts/docs.py makes to a page: equations, docstrings, tables."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
NEEDS = {
    "docs_griffe": "griffe",
    "docs_math": "matplotlib",
    "docs_tables": "matplotlib",
    "docs_tutorials": "jupytext",
}


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    monkeypatch.syspath_prepend(SCRIPTS)
    module = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    return module


@pytest.mark.parametrize(
    "name", ["docs_griffe", "docs_links", "docs_mathml", "docs_tables", "docs_tutorials"]
)
def test_examples_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = doctest.testmod(script(name, monkeypatch))
    assert found.attempted > 0 and found.failed == 0


def test_equations_become_pictures_and_code_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "`$CRFRNN_SHARED`\n\n```sh\necho $a and $b\n```\n\nIt costs $5, not $6.\n"
    page = tmp_path / "learn" / "page.md"
    page.parent.mkdir()
    page.write_text(f"With $\\theta_\\alpha$ and $x_i$.\n\n$$E(x) = \\sum_i U_i \\\\ a < b$$\n\n{code}")
    script("docs_math", monkeypatch).draw_equations(page, tmp_path)
    text = page.read_text()
    assert text.endswith(code)
    images = re.findall(r'<img class="math" alt="([^"]+)" src="([^"]+)"', text)
    assert len(images) == 4 and "$" not in text[: -len(code)]
    for _, source in images:
        drawn = (page.parent / source).read_text()
        assert (
            drawn.count("<path") >= 1 and "#ffffff" not in drawn
        )  # no background, so that it can be inverted
    assert images[0][0] == "&#92;theta&#95;&#92;alpha"


def test_the_package_s_equations_are_typeset_and_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("docs_mathml", monkeypatch)
    shown: list[str] = []
    for path in sorted((SCRIPTS.parent / "src" / "crfrnn").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                shown += re.findall("``([^`]+)``", ast.get_docstring(node) or "")
    signs = {"-": "−", "<Q": "⟨Q", "<A": "⟨A", ">": "⟩", "'": "′", "½": "12"}
    typeset = 0
    for formula in (" ".join(code.split()) for code in shown):
        drawn = module.typeset(f"``{formula}``")
        if not drawn.startswith("<"):
            assert not re.search(r"[Σ½√←]", formula) or "softmax_j of" in formula, formula
            continue
        typeset += 1
        for ours, theirs in signs.items():
            formula = formula.replace(ours, theirs)
        said = "".join(ElementTree.fromstring(drawn).itertext()).replace("1e-", "1e−")
        left_out = str.maketrans("²³ᵀ⁺₀₁₂₃₄₅₆₇₈₉₊₋", "23T+0123456789+−", " _^{}√")
        wanted = formula.translate(left_out)
        if "√" in formula:  # a root needs no brackets
            wanted, said = (re.sub(r"[()]", "", text) for text in (wanted, said))
        assert said == wanted, formula
    assert typeset > 80


def test_links_to_other_sites_have_a_usable_form(monkeypatch: pytest.MonkeyPatch) -> None:
    links = script("docs_links", monkeypatch)
    found = links.found()
    assert len(found) > 15 and "https://doi.org/10.1145/1015706.1015720" in found
    assert {address: pages for address, pages in found.items() if links.wrong(address)} == {}
    for bad in ("http://a.org/b", "https://a", "https://doi.org/x", "https:/a.org"):
        assert links.wrong(bad)


def test_a_link_is_requested_from_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response({"/there": 200, "/refused": 403}.get(self.path, 404))
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        asked = script("docs_links", monkeypatch).unreachable
        here = f"http://127.0.0.1:{server.server_port}"
        assert [asked(here + path) for path in ("/there", "/refused", "/gone")] == ["", "", "answers 404"]
        server.shutdown()
    assert asked(here).startswith("does not answer")


def test_examples_of_docstrings_get_fences(monkeypatch: pytest.MonkeyPatch) -> None:
    readable = script("docs_griffe", monkeypatch).readable
    text = "Sum.\n\nArgs:\n    a, b: numbers,\n        both.\n    c: more.\n\n"
    text += ">>> x = 1\n>>> x\n1\n\nMore.\n\n>>> 2\n2"
    assert readable(text) == (
        "Sum.\n\nArgs:\n    a: numbers,\n        both.\n    b: numbers,\n        both.\n    c: more.\n\n"
        "```pycon\n>>> x = 1\n>>> x\n1\n```\n\nMore.\n\n```pycon\n>>> 2\n2\n```"
    )


def test_benchmarks_are_shown_where_they_were_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = script("docs_tables", monkeypatch).write
    results, benchmarks = tmp_path / "results", tmp_path / "benchmarks"
    results.mkdir()
    (results / "a_scores.csv").write_text("method,mean_iu,mean_iu_low,mean_iu_high\nplain,50,40,60\n")
    (results / "a_trimap.csv").write_text("width,plain\n1,30\n2,40\n")
    (results / "a_log.csv").write_text("epoch,loss\n1,2\n")
    write(tmp_path, results, benchmarks)
    assert "No benchmark was run" in (tmp_path / "benchmarks.md").read_text()
    accuracy = (tmp_path / "accuracy.md").read_text()
    assert "| plain | 50.0 [40.0, 60.0] |" in accuracy and "a_log" not in accuracy
    assert (tmp_path / "assets" / "trimap" / "a.png").is_file()
    benchmarks.mkdir()
    (benchmarks / "engine.csv").write_text("case,seconds\nforward,0.24\n")
    write(tmp_path, results, benchmarks)
    assert (
        "## engine\n\n| case | seconds |\n|---|---:|\n| forward | 0.24 |"
        in (tmp_path / "benchmarks.md").read_text()
    )
