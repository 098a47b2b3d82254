# SPDX-License-Identifier: MIT
"""The page's server: local by default, without analytics, and deleting all files at the end."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from crfrnn.app.options import Options
from crfrnn.extras import optional

SESSIONS = 32  # number of clients whose pictures are kept
PATIENCE = 60  # seconds to wait for running computations at the end
QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_SHARE": "False", "GRADIO_SSR_MODE": "False",
    "GRADIO_MCP_SERVER": "False", "HF_HUB_DISABLE_TELEMETRY": "1",
    # Gradio's statistics of the latest requests, rebuilt after each one by default; nothing here shows them.
    "GRADIO_ANALYTICS_MAX_EVENTS": "100", "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(10**9),
}  # fmt: skip


@contextmanager
def served(options: Options) -> Iterator[str]:
    """Serve the page during the block and yield its address; uploads and results are deleted afterwards.

    Raises: ImportError without Gradio (the extra `web`); ValueError for a missing checkpoint or an occupied
        port.
    """
    os.environ.update(QUIET)
    with tempfile.TemporaryDirectory(prefix="crfrnn-page-") as folder:
        own, cache = Path(folder, "examples"), Path(folder, "cache")
        own.mkdir()
        os.environ["GRADIO_TEMP_DIR"] = str(cache)  # read when Gradio is imported
        gradio = optional("gradio", "web", "the page in a browser")
        from crfrnn.app.page import build
        from crfrnn.app.parts import read
        from crfrnn.app.turns import take_turns

        Image.MAX_IMAGE_PIXELS = options.max_pixels  # for pictures decoded by Gradio itself
        page = build(options, own)
        page.queue(max_size=options.clients, api_open=False, default_concurrency_limit=2)
        take_turns(page._queue)
        theme = gradio.themes.Default(
            primary_hue="emerald", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        ).set(  # the theme's colours have too little contrast
            block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_300",
            body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_300",
        )  # fmt: skip
        try:
            _, address, _ = page.launch(
                server_name=options.host, server_port=options.port or None, share=False, ssr_mode=False,
                inbrowser=options.open_browser, prevent_thread_lock=True, quiet=True, show_error=False,
                allowed_paths=[], max_file_size=options.max_bytes, footer_links=[], run_history=False,
                enable_monitoring=False, mcp_server=False, pwa=False, strict_cors=True,
                state_session_capacity=SESSIONS, theme=theme, css=read("style.css"),
            )  # fmt: skip
        except OSError as error:
            raise ValueError(
                f"port: expected a free one of {options.host}, got {options.port or '7860 to 7959'}, which "
                "is occupied; name another, or omit port"
            ) from error
        log = logging.getLogger("uvicorn.error")
        try:
            yield address
        finally:
            # Closing cancels what clients wait for, and uvicorn may log that as an error, with a traceback.
            before, log.disabled = log.disabled, True
            page.close(verbose=False)
            options.work.close(timeout=PATIENCE)
            page.server.force_exit = True  # otherwise uvicorn waits for clients without a limit
            page.server.thread.join(timeout=2)
            log.disabled = before


def serve(options: Options, started: Callable[[str], Any]) -> None:
    """Serve the page until the process is stopped (KeyboardInterrupt).

    Args: started: called with the address when the page can be opened.
    """
    with served(options) as address:
        started(address)
        threading.Event().wait()
