# SPDX-License-Identifier: MIT
"""The links of the documentation to other sites: their form always, their servers on request.

    python scripts/docs_links.py             every address and the pages that name it; fails for bad ones
    python scripts/docs_links.py --online    also queries every server

`tests/test_docs_scripts.py` checks the form; links within the documentation are checked by its build.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("*.md", "docs/**/*.md", "docs/tutorials/*.py", "src/crfrnn/**/*.py")
_CODE = re.compile(r"^[ ]*(`{3,}).*?^[ ]*\1[ ]*$", re.M | re.S)
_ADDRESS = re.compile(r"https?:/+\w[^\s<>\"'`)\]|]*[^\s<>\"'`)\]|.,;:!?]")
_DOI = re.compile(r"\bdoi:\s*([^\s,;`\"')\]]+[^\s,;:`\"')\].])")
_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}")


def addresses(text: str) -> list[str]:
    """Addresses of other sites in a text, DOIs as addresses of doi.org; without those in fences.

    >>> addresses("See <https://a.org/b>, doi:10.1145/1015706.1015720, section 3.")
    ['https://a.org/b', 'https://doi.org/10.1145/1015706.1015720']
    """
    text = _CODE.sub("", text)
    return _ADDRESS.findall(text) + [f"https://doi.org/{doi}" for doi in _DOI.findall(text)]


def wrong(address: str) -> str:
    """What is wrong with the form of an address; "" if it is correct.

    >>> wrong("https://doi.org/10.1145/1015706.1015720"), wrong("https://doi.org/1015706")
    ('', 'no DOI: 10.NUMBER/NAME')
    """
    parts = urlsplit(address)
    if parts.hostname in ("127.0.0.1", "localhost"):
        return ""
    if parts.scheme != "https":
        return "not https"
    if not _HOST.fullmatch(parts.hostname or ""):
        return "no name of a server"
    if parts.hostname == "doi.org" and not re.fullmatch(r"/10\.\d{4,9}/\S+", parts.path):
        return "no DOI: 10.NUMBER/NAME"
    return ""


def unreachable(address: str, seconds: float = 20) -> str:
    """The error of the server for an address; "" if it responds."""
    for method in ("HEAD", "GET"):  # some servers refuse HEAD
        request = Request(address, method=method, headers={"User-Agent": "Mozilla/5.0 (crfrnn docs)"})
        try:
            with urlopen(request, timeout=seconds):
                return ""
        except HTTPError as error:
            said = f"answers {error.code}"
            if error.code in (401, 403, 418, 429):  # it exists, but rejects programs
                return ""
        except (URLError, TimeoutError, OSError) as error:
            said = f"does not answer: {error}"
    return said


def found() -> dict[str, set[str]]:
    """Every address, and the files that name it."""
    pages: defaultdict[str, set[str]] = defaultdict(set)
    for pattern in PAGES:
        for page in ROOT.glob(pattern):
            for address in addresses(page.read_text(encoding="utf-8")):
                pages[address].add(page.relative_to(ROOT).as_posix())
    return dict(pages)


def main() -> None:
    parser = argparse.ArgumentParser(description="List and check the links to other sites.")
    parser.add_argument("--online", action="store_true", help="ask every server")
    online, bad = parser.parse_args().online, 0
    for address, pages in sorted(found().items()):
        problem = wrong(address) or (unreachable(address) if online else "")
        bad += bool(problem)
        print(address, ", ".join(sorted(pages)), *([f"WRONG: {problem}"] if problem else []), sep="  ")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
