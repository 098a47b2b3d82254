# SPDX-License-Identifier: MIT
"""The entry point of the command `crfrnn`: signals are handled before anything heavy is imported."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

from crfrnn import signals


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; `arguments` are those of the process by default."""
    for stream in (sys.stdout, sys.stderr):
        # File names may contain undecodable bytes, and the terminal's encoding may lack characters.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    with signals.answered(signals.leave, ending=True):
        from crfrnn.commands.parser import run

        run(sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    main()
