# SPDX-License-Identifier: MIT
"""The list of the pictures that failed: ``failed.jsonl``, a line each, written as they fail."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from crfrnn.io.files import OutputError, write_text

FAILED = "failed.jsonl"


class Failure(NamedTuple):
    """A picture, the unit that it belongs to, and why it failed."""

    picture: str
    unit: str
    reason: str


class FailedList:
    """Args: folder: of the results."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FAILED

    def read(self) -> list[Failure]:
        """What failed so far; lines that a killed run left half-written do not count."""
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
        """Raises: OutputError where there is no room for a line."""
        lines = "".join(f"\n{_line(failure)}" for failure in failures)  # in front: after a half-written one
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(lines)
        except OSError as error:
            raise OutputError(
                "output", self.path, "room for a line", error.strerror or str(error), "free some room"
            ) from error

    def settle(self, failures: Iterable[Failure]) -> None:
        """Write the list anew, whole; remove it where nothing failed."""
        lines = [f"{_line(failure)}\n" for failure in sorted(failures)]
        if lines:
            write_text(self.path, "".join(lines))
        else:
            self.path.unlink(missing_ok=True)


def _line(failure: Failure) -> str:
    return json.dumps(failure._asdict(), ensure_ascii=False)
