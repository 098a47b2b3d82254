# SPDX-License-Identifier: MIT
"""Parquet: a row per picture, a column of bytes per output file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crfrnn.extras import optional
from crfrnn.io.files import atomic

_GROUP = 100  # rows per write


@contextmanager
def new_table(path: Path) -> Iterator[TableWriter]:
    """Write a Parquet file atomically when the block ends without an error."""
    with atomic(path) as temporary:
        table = TableWriter(temporary)
        try:
            yield table
            table.flush()
        finally:
            table.close()


class TableWriter:
    """Writes samples one by one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._arrow = optional("pyarrow", "scale", "Parquet")
        self._parquet = optional("pyarrow.parquet", "scale", "Parquet")
        self._rows: list[dict[str, Any]] = []
        self._writer: Any = None

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """Args: members by their names in the sample, ``png``: the columns."""
        self._rows.append({"key": key, **members})
        if len(self._rows) >= _GROUP:
            self.flush()

    def flush(self) -> None:
        """Write the buffered rows; a file without rows has only the column ``key``."""
        if not self._rows and self._writer is not None:
            return
        arrow = self._arrow
        names = list(self._rows[0]) if self._rows else ["key"]
        types = [arrow.string() if name == "key" else arrow.large_binary() for name in names]
        columns = [arrow.array([row[n] for row in self._rows], t) for n, t in zip(names, types, strict=True)]
        table = arrow.table(columns, names=names)
        if self._writer is None:
            self._writer = self._parquet.ParquetWriter(self._path, table.schema)
        self._writer.write_table(table)
        self._rows = []

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
