# SPDX-License-Identifier: MIT
"""Output files of a measurement, checked before it begins, so that its work is not lost at the end."""

from __future__ import annotations

import argparse
from pathlib import Path

from crfrnn.io.files import OutputError, prepared


def ready(parser: argparse.ArgumentParser, *paths: Path | None) -> None:
    """Make the folders of these files; a usage error if one of them cannot be written."""
    for path in paths:
        try:
            if path is not None:
                prepared(path)
        except OutputError as error:
            parser.error(str(error))
