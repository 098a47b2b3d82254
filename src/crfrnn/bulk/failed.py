# SPDX-License-Identifier: MIT
"""The list of failed pictures, ``failed.jsonl``: one line per picture, appended at each failure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from crfrnn.io.files import OutputError, write_text

FAILED = "failed.jsonl"


class Failure(NamedTuple):
    """A picture, the unit that it belongs to, and the reason of its failure."""

    picture: str
    unit: str
    reason: str


class FailedList:
    """The file in a folder of results. Args: folder: the folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FAILED

    def read(self) -> list[Failure]:
        """The failures so far; truncated lines of a killed run are ignored."""
        out = []
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        for line in text.splitlines():
            try:
                held = json.loads(line)
                out.append(Failure(*(str(held[name]) for name in Failure._fields)))
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
        return list({failure.picture: failure for failure in out}.values())

    def add(self, failures: Iterable[Failure]) -> None:
        """Append failures; OutputError if the disk is full."""
        lines = "".join(
            f"\n{_line(failure)}" for failure in failures
        )  # the newline first, after a possibly truncated line
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(lines)
        except OSError as error:
            raise OutputError(
                "output", self.path, "space for a line", error.strerror or str(error), "free some space"
            ) from error

    def settle(self, failures: Iterable[Failure]) -> None:
        """Rewrite the list atomically; remove it if nothing failed."""
        lines = [f"{_line(failure)}\n" for failure in sorted(failures)]
        if lines:
            write_text(self.path, "".join(lines))
        else:
            self.path.unlink(missing_ok=True)


def _line(failure: Failure) -> str:
    return json.dumps(failure._asdict(), ensure_ascii=False)
