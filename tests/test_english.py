# SPDX-License-Identifier: MIT
"""Plain English: words that comments, docstrings, messages and pages avoid, with the words to use instead."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Pattern → what to write instead. Code has no will and no senses; archaic words have modern ones.
AVOID = {
    r"who(?:so)?ever|whomever|whom": "the caller, any caller, or a passive sentence",
    r"nobody|no one|somebody|someone": "a passive sentence: 'is not measured', 'an unknown file'",
    r"foretell\w*|foresee\w*|foreseen": "unpredictable, predict",
    r"thereof|therein|thereby|wherein|whereby|whereof": "of it, in it, in which",
    r"whence|hence|henceforth|thence|thither": "so, therefore, from which",
    r"ought|shalt|unto|lest|behoves?": "should, to, so that … not",
    r"anew": "again, or the verb with re-: rewrite, rebuild",
    r"for ever": "forever",
    r"forgiv\w+": "accepts, tolerates",
    r"knows|knew": "contains, has, accepts; for an unknown value: is known",
    r"wants|wished|wishes": "needs, expects, requires",
    r"believes?|believed": "trusts, checks, assumes",
    r"hears?|heard": "receives; has no dependency on",
    r"asks|asked for|asking for": "requests, requires, reads",
    r"answers for|answers to": "returns, responds, is responsible for",
    r"mend|mends|mended": "correct, repair",
    r"learnt": "learned",
    r"as it stands|as they stand": "unchanged",
    r"whole or not at all": "atomically",
    r"by whatever": "by any, in any way",
    r"out of the question": "excluded",
    r"in silence": "silently",
    r"without a word": "silently, without a warning",
    r"beforehand": "before",
}
# One expression for all of them; the number of the group that matches is the place in AVOID.
WORDS = re.compile(
    r"(?<![\w.`\-])(?:" + "|".join(f"({pattern})" for pattern in AVOID) + r")(?![\w(=`\-])", re.I
)

FOLDERS = ("src", "tests", "docs", "benchmarks", "experiments", "scripts", "native", "spaces")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
FILES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".md", ".cpp", ".hpp", ".sh", ".js") and path != Path(__file__).resolve()
)


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of the prose in a file, without names and code."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield from in_python(text)
    elif path.suffix == ".md":
        yield from in_markdown(text)
    else:  # a comment, or a string of several words
        for number, line in enumerate(text.splitlines(), 1):
            for found in re.findall(
                r"(?://|#(?!include|if|endif|def)|^\s*\*)(.*)|\"([^\"]*\s[^\"]*)\"", line
            ):
                yield number, " ".join(found)


def in_python(text: str) -> Iterator[tuple[int, str]]:
    """Comments, and strings of several words."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            for number, line in enumerate(node.value.splitlines()):
                if not line.lstrip().startswith((">>>", "...")):
                    yield node.lineno + number, line


def in_markdown(text: str) -> Iterator[tuple[int, str]]:
    """Everything outside blocks of code, and the comments inside."""
    code = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            code = not code
        elif not code:
            yield number, line
        elif "#" in line:
            yield number, line.partition("#")[2]


def faults(path: Path) -> list[str]:
    """One line for each word to avoid: file, line, word, and what to write instead."""
    if not WORDS.search(path.read_text(encoding="utf-8")):
        return []  # most files; parsing is the slow part
    return [
        f"{path.relative_to(ROOT)}:{number}: {found[0]!r}; write {list(AVOID.values())[found.lastindex - 1]}"
        for number, line in prose(path)
        for found in WORDS.finditer(line)
        if found.lastindex
    ]


def test_plain_english() -> None:
    found = [fault for path in [*PAGES, *FILES] for fault in faults(path)]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("a.py", "x = 1  # nobody reads it\n", [1]),
        ("a.py", '"""Stays.\n\nWritten anew.\n"""\n', [3]),
        ("a.py", 'raise ValueError("mend it")\nknows = asks("anew")\n', [1]),
        ("a.md", "Hence.\n```python\nhence = 1  # and whence\n```\n`anew`\n", [1, 3]),
        ("a.cpp", 'int hence; // whoever\nthrow E("wants a row");\n', [1, 2]),
    ],
)
def test_words_are_found_in_prose_and_not_in_code(
    name: str, text: str, lines: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert [int(fault.split(":")[1]) for fault in faults(tmp_path / name)] == lines
