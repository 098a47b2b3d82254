# SPDX-License-Identifier: MIT
"""`crfrnn app`: the page in a browser."""

from __future__ import annotations

from typing import Annotated

import typer

from crfrnn.commands import common
from crfrnn.commands.wording import in_options, options_of


def app(
    host: Annotated[
        str, typer.Option("--host", help="Address to serve at; 0.0.0.0 admits other machines, unencrypted.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port; 0: the first free one from 7860.")] = 0,
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", "-c", help="Network, as in segment; the package's own by default."),
    ] = None,
    max_megapixels: Annotated[
        float, typer.Option("--max-megapixels", help="Larger photographs are rejected.")
    ] = 24.0,
    max_file_size: Annotated[
        float, typer.Option("--max-file-size", help="Megabytes; larger files are rejected.")
    ] = 256.0,
    open_browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Show the page in the browser of this machine.")
    ] = False,
) -> None:
    """Show in a browser what the CRF does to a photograph, to scribbles and to your own scores.

    The page runs on this machine and is visible only from this machine, unless --host is given. Nothing is
    sent elsewhere, and uploads are deleted at the end. Stop it with Ctrl-C.

    Exit code 2: usage; 130: stopped by Ctrl-C, 143: by SIGTERM.

    Example: crfrnn app --open

    Example: crfrnn app --port 8080 --checkpoint my-network/ --max-megapixels 12
    """
    from crfrnn.app import Options, serve
    from crfrnn.commands.refine import refine
    from crfrnn.lattice import keep_memory

    keep_memory()
    words = options_of(refine)
    options = Options(
        host=host, port=port, checkpoint=checkpoint, max_megapixels=max_megapixels,
        max_file_size=max_file_size, open_browser=open_browser,
        worded=lambda message: in_options(message, words),
    )  # fmt: skip

    def started(address: str) -> None:
        common.out.print(f"The page: {address}", markup=False)
        common.out.print("Stop it with Ctrl-C.")

    try:
        serve(options, started)
    except KeyboardInterrupt:
        raise common.stopped("the page is closed, and uploads are deleted") from None
