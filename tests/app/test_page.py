# SPDX-License-Identifier: MIT
"""The page in headless Chromium, driven by Playwright: one server and one browser for all tests."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

from colour_network import COLOURS, save_colours
from command_line import run

HERE = Path(__file__).resolve().parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ABSENT = [name for name in ("gradio", "playwright") if importlib.util.find_spec(name) is None]
ABSENT += [] if CHROMIUM else ["Chromium"]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(bool(ABSENT), reason=f"the page is driven in a browser: lacks {', '.join(ABSENT)}"),
]
SWITCHES = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
WAIT = 60_000  # milliseconds; the cores may be busy
# The checkpoint is of the tests' own network, which the server must know by name.
SERVER = """
import sys
import colour_network
from crfrnn.cli import main
main(sys.argv[1:])
"""


def photograph(folder: Path, name: str = "photo.png", turn: int = 0) -> Path:
    """Three coloured areas with noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:120, :180]
    labels = (x + 6 * np.sin(y / 5) > 90).astype(int) + (y > 80)
    pixels = COLOURS[np.roll(np.arange(4), turn)][labels] + rng.normal(0, 45, (120, 180, 3))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name)
    return folder / name


class Server:
    """`crfrnn app` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        checkpoint = save_colours(folder / "network")
        self.folder = folder / "temporary"
        self.folder.mkdir()
        words = ["app", "--checkpoint", str(checkpoint), "--max-megapixels", "1", "--max-file-size", "2"]
        path = os.pathsep.join(map(str, (HERE.parent / "helpers", HERE.parents[1] / "src")))
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVER, *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
            env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(self.folder), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", said)
        assert found, said + (self.process.stderr.read() if self.process.stderr else "")
        self.address = found[0]

    def stop(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGINT)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("server"))
    yield started
    if started.process.poll() is None:
        code, errors = started.stop()
        assert code == 130 and errors.splitlines()[-1].startswith("stopped by Ctrl-C; the page is closed"), (
            errors
        )
    assert [p.name for p in started.folder.iterdir() if p.name.startswith("crfrnn-")] == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield opened
        opened.close()


@pytest.fixture
def visit(server: Server, browser: Any) -> Iterator[Any]:
    """Opens the page as a client of its own; every request must stay on this machine, no script may fail."""
    contexts, asked, failed = [], [], []

    def visit(**options: Any) -> Any:
        context = browser.new_context(accept_downloads=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.goto(server.address)
        page.wait_for_selector("#photo-upload")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not failed
    outside = {url for url in asked if urlsplit(url).hostname not in ("127.0.0.1", None)}
    assert asked and not outside


def send(page: Any, where: str, path: Path) -> None:
    page.set_input_files(f"{where} input[type=file]", str(path))


def opened(page: Any, path: Path) -> None:
    """The photograph is uploaded and its result is there."""
    send(page, "#photo-upload", path)
    page.wait_for_selector("#photo-legend table")


def written(page: Any, tab: str, folder: Path) -> dict[str, Path]:
    """Press "Write the files" and download them all."""
    page.get_by_role("tab", name="Take it with you").locator("visible=true").click()
    page.click(f"#{tab}-make")
    page.wait_for_selector(f"#{tab}-files a[download]")
    out = {}
    for link in page.locator(f"#{tab}-files a[download]").all():
        with page.expect_download() as download:
            link.click()
        name = download.value.suggested_filename
        download.value.save_as(folder / name)
        out[name] = folder / name
    return out


def code(page: Any, tab: str, kind: str) -> str:
    """The text of a field of code."""
    lines = page.locator(f"#{tab}-{kind} .cm-line").all_inner_texts()
    return "\n".join(line.rstrip("\n") for line in lines)


def test_a_photograph_is_uploaded_turned_and_downloaded_as_its_command_writes_it(
    visit: Any, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, photo = visit(), photograph(tmp_path)
    opened(page, photo)
    before = page.inner_text("#photo-legend")
    assert "night" in before and "with the CRF" in before
    said = page.inner_text("#photo-said")
    page.locator("#photo-theta_beta input[type=number]").fill("60")
    page.wait_for_function("said => document.querySelector('#photo-said').innerText !== said", arg=said)
    monkeypatch.chdir(tmp_path)
    files = written(page, "photo", tmp_path / "page")
    assert sorted(files) == ["crf.safetensors", "photo.json", "photo.png", "photo_overlay.png"]
    command = code(page, "photo", "command").split()
    assert command[:3] == ["crfrnn", "segment", "photo.png"] and "crf.safetensors" in command
    shutil.copy(files["crf.safetensors"], tmp_path)
    status, _, error = run(*command[1:])
    assert status == 0, error
    for name in ("photo.png", "photo_overlay.png"):
        assert (tmp_path / "segmented" / name).read_bytes() == files[name].read_bytes()


def test_no_path_of_the_server_is_served(server: Server) -> None:
    own = server.folder.parent / "network" / "config.json"
    for path in (
        "/etc/passwd",
        str(own),
        str(HERE / "test_page.py"),
        f"{server.folder}/../network/config.json",
    ):
        with pytest.raises(HTTPError) as refused:
            urlopen(f"{server.address}gradio_api/file={path}")
        assert refused.value.code in (403, 404)
