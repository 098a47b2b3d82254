# SPDX-License-Identifier: MIT
"""The page in headless Chromium, driven by Playwright: one server and one browser for all tests."""

from __future__ import annotations

import importlib.util
import json
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
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image

from colour_network import COLOURS, save_colours
from command_line import run
from crfrnn.io import read_label_png

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
WAIT = 30_000  # milliseconds; the cores may be busy
# The checkpoint is of a network of the tests, which must be registered in the server.
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
    """`crfrnn app` in a separate process."""

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
    """Opens the page as a separate client; all requests must stay on this machine, and no script may fail."""
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
    """Upload the photograph and wait for its result."""
    send(page, "#photo-upload", path)
    page.wait_for_selector("#photo-legend table")


def written(page: Any, tab: str, folder: Path) -> dict[str, Path]:
    """Press "Create the files" and download them all."""
    page.get_by_role("tab", name="Download").locator("visible=true").click()
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


def test_server_paths_are_not_served(server: Server) -> None:
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


def asked_directly(server: Server, data: list[Any], target: str) -> str:
    """The response to a manual request for the event with the inputs desk and `target`."""
    config = json.load(urlopen(f"{server.address}config"))
    ids = {c["props"].get("elem_id"): c["id"] for c in config["components"]}
    (event,) = (d for d in config["dependencies"] if d["inputs"][1:] == [ids[target]] and d["backend_fn"])
    body = {"data": data, "fn_index": event["id"], "session_hash": "direct"}
    head = {"content-type": "application/json"}
    urlopen(Request(f"{server.address}gradio_api/queue/join", json.dumps(body).encode(), head))
    with urlopen(f"{server.address}gradio_api/queue/data?session_hash=direct", timeout=60) as stream:
        for line in stream:
            if b"process_completed" in line:
                return line.decode()
    raise AssertionError("no answer")


@pytest.mark.parametrize("path", ["/etc/passwd", "http://127.0.0.1:1/photo.png", "network/config.json"])
def test_a_request_cannot_name_a_path_of_the_server_or_an_address(server: Server, path: str) -> None:
    file = {"path": path, "orig_name": "photo.png", "meta": {"_type": "gradio.FileData"}}
    answer = asked_directly(server, [None, file], "photo-upload")
    assert '"success":false' in answer.replace(" ", "")
    assert "root:" not in answer and "test-colours" not in answer and "Traceback" not in answer


def test_dragging_the_handle(visit: Any, tmp_path: Path) -> None:
    page = visit()
    opened(page, photograph(tmp_path))

    def place() -> float:
        found = re.search(r"translateX\(([\d.]+)px", page.get_attribute("#photo-compare .outer", "style"))
        assert found
        return float(found[1]) / page.locator("#photo-compare .slider-wrap").bounding_box()["width"]

    page.wait_for_function("document.querySelector('#photo-compare .outer').style.transform.length > 12")
    assert 0.4 < place() < 0.6
    handle = page.locator("#photo-compare .inner").bounding_box()
    wide = page.locator("#photo-compare .slider-wrap").bounding_box()["width"]
    page.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + 40)
    page.mouse.down()
    page.mouse.move(handle["x"] - 0.3 * wide, handle["y"] + 40, steps=6)
    page.mouse.up()
    assert 0.1 < place() < 0.3


def painter(page: Any) -> Any:
    """A stroke through points given as shares of the picture."""

    def stroke(*points: tuple[float, float]) -> None:
        page.locator("canvas.pad-canvas").scroll_into_view_if_needed()
        seen = page.locator("canvas.pad-canvas").bounding_box()
        for number, (x, y) in enumerate(points):
            page.mouse.move(seen["x"] + x * seen["width"], seen["y"] + y * seen["height"], steps=4)
            if number == 0:
                page.mouse.down()
        page.mouse.up()

    return stroke


def scribbling(page: Any, path: Path) -> Any:
    page.get_by_role("tab", name="Scribbles").click()
    send(page, "#scribbles-upload", path)
    page.wait_for_selector("canvas.pad-canvas.ready")
    return painter(page)


def says(page: Any, selector: str, words: str) -> None:
    page.wait_for_function(
        "([selector, words]) => document.querySelector(selector).innerText.includes(words)",
        arg=[selector, words],
    )


def test_scribbles_are_painted_undone_and_reproduced_by_command_and_python(
    visit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, photo = visit(), photograph(tmp_path)
    stroke = scribbling(page, photo)
    stroke((0.05, 0.1), (0.4, 0.1))
    says(page, "#scribbles-said", "Still to be painted: object 1.")
    page.get_by_role("radio", name="object 1").click()
    stroke((0.6, 0.3), (0.9, 0.4))
    page.wait_for_selector("#scribbles-legend table")
    page.click(".pad-undo")
    says(page, "#scribbles-said", "Still to be painted: object 1.")
    stroke((0.6, 0.3), (0.9, 0.4))
    says(page, "#scribbles-said", "% of the pixels")
    files = written(page, "scribbles", tmp_path / "page")
    assert sorted(files) == [
        "crf.safetensors", "photo.json", "photo.png", "photo_overlay.png", "photograph.png", "scribbles.png",
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path / "page")
    labels = read_label_png("photo.png")
    assert labels[12, 40] == 0 and labels[40, 140] == 1
    status, _, error = run(*code(page, "scribbles", "command").split()[1:])
    assert status == 0, error
    assert Path("completed", "photo.png").read_bytes() == files["photo.png"].read_bytes()
    Path("photo.png").unlink()
    exec(compile(code(page, "scribbles", "python"), "page", "exec"), {})
    assert np.array_equal(read_label_png("photo.png"), labels)


def test_dragging_a_box(visit: Any, tmp_path: Path) -> None:
    page = visit()
    stroke = scribbling(page, photograph(tmp_path))
    page.click(".pad-box")
    stroke((0.97, 0.64), (0.45, 0.03))
    page.wait_for_selector("#scribbles-legend table")
    assert "object 1" in page.inner_text("#scribbles-legend")
    page.get_by_role("tab", name="Download").locator("visible=true").click()
    says(page, "#scribbles-python", "segment_box(image, (8")
    says(page, "#scribbles-command", "crfrnn interact photograph.png --box 8")


def test_own_scores_give_the_results_and_errors_of_refine(
    visit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, photo = visit(), photograph(tmp_path)
    np.save(tmp_path / "scores.npy", np.random.default_rng(0).normal(0, 2, (3, 120, 180)).astype(np.float32))
    monkeypatch.chdir(tmp_path)
    page.get_by_role("tab", name="Own scores").click()
    page.click("#scores-go")
    says(page, ".toast-wrap", "photograph: expected a file, got none")
    send(page, "#scores-picture", photo)
    send(page, "#scores-unary", tmp_path / "scores.npy")
    page.locator("#scores-upload, #scores-unary").get_by_text("scores").first.wait_for()
    page.locator("#scores-layout input").click()
    page.get_by_role("option", name="hwl").click()
    page.click("#scores-go")
    status, _, said = run(
        "refine", "photo.png", "-u", "scores.npy", "--kind", "logits", "--layout", "hwl", "-o", "no"
    )
    wrong = said.split("error: ")[1].splitlines()[0].strip()
    assert status != 0 and "would fit" in wrong
    says(page, ".toast-wrap", wrong.split(": ", 1)[1] if wrong.startswith("photo.png") else wrong)
    page.locator("#scores-layout input").click()
    page.get_by_role("option", name="lhw").click()
    page.click("#scores-go")
    page.wait_for_selector("#scores-legend table")
    files = written(page, "scores", tmp_path / "page")
    status, _, error = run(*code(page, "scores", "command").split()[1:])
    assert status == 0, error
    assert (tmp_path / "refined" / "photo.png").read_bytes() == files["photo.png"].read_bytes()


def test_unreadable_files_give_the_errors_of_the_command(
    visit: Any, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = visit()
    (tmp_path / "letter.png").write_text("Dear Sir")
    send(page, "#photo-upload", tmp_path / "letter.png")
    checkpoint = server.folder.parent / "network"
    _, _, error = run("segment", "letter.png", "-o", "out", "--checkpoint", checkpoint)
    said = error.split("error: ")[1].splitlines()[0]
    assert said.endswith("save it in one of these formats")
    says(page, ".toast-wrap", "image 'letter.png': expected a picture (BMP,")
    assert page.locator(".toast-wrap").inner_text().splitlines()[-1].strip() in said
    assert "/tmp" not in page.locator(".toast-wrap").inner_text() and "Traceback" not in page.content()
    Image.new("RGB", (1200, 900)).save("large.png")  # of more than a megapixel
    page = visit()
    send(page, "#photo-upload", tmp_path / "large.png")
    says(page, ".toast-wrap", "image 'large.png': expected at most 1000000 pixels, got 1200 × 900")
    noise = np.random.default_rng(0).integers(0, 256, (900, 1000, 3), dtype=np.uint8)
    Image.fromarray(noise).save("heavy.bmp")  # of more than two megabytes
    page = visit()
    send(page, "#photo-upload", tmp_path / "heavy.bmp")
    says(page, ".toast-wrap", "maximum allowed size")
    opened(visit(), photograph(tmp_path))  # the server still works


def test_everything_is_reachable_by_keyboard(visit: Any, tmp_path: Path) -> None:
    page = visit()

    def tab_to(selector: str, most: int = 80) -> None:
        for _ in range(most):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement?.closest(selector) !== null", selector):
                return
        raise AssertionError(f"{selector} is not reached by Tab")

    opened(page, photograph(tmp_path))
    said = page.inner_text("#photo-said")
    tab_to("#photo-handle")
    tab_to("#photo-theta_beta input[type=range]")
    for _ in range(5):
        page.keyboard.press("PageUp")
    page.wait_for_function("said => document.querySelector('#photo-said').innerText !== said", arg=said)
    page.get_by_role("tab", name="Photograph").focus()
    page.keyboard.press("Tab")
    page.get_by_role("tab", name="Scribbles").focus()
    page.keyboard.press("Enter")
    send(page, "#scribbles-upload", tmp_path / "photo.png")
    page.wait_for_selector("canvas.pad-canvas.ready")
    tab_to("canvas.pad-canvas")
    for label, way in (("1", "ArrowLeft"), ("2", "ArrowRight")):
        page.keyboard.press(label)
        for key in (way, way, way, way, "Space", "ArrowUp", "ArrowUp", "ArrowUp", "Space"):
            page.keyboard.press(key)
        for _ in range(4):
            page.keyboard.press("ArrowRight" if way == "ArrowLeft" else "ArrowLeft")
    page.wait_for_selector("#scribbles-legend table")
    assert "2 strokes" in page.inner_text(".pad-status")
    page.keyboard.press("Control+z")
    says(page, ".pad-status", "Drawn: 1 stroke.")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_in_light_and_dark_mode(visit: Any, tmp_path: Path, scheme: str) -> None:
    page = visit(viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True)
    opened(page, photograph(tmp_path))
    for name in ("Own scores", "Scribbles", "Photograph"):
        page.get_by_role("tab", name=name).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
    answer = page.locator("#photo-compare").bounding_box()
    numbers = page.locator("#photo-theta_alpha").bounding_box()
    assert answer["width"] > 300 and answer["y"] + answer["height"] < numbers["y"]
    dark = page.evaluate("document.body.classList.contains('dark')")
    assert dark == (scheme == "dark")
    for selector in (".lead p", "#photo-legend td", "#photo-theta_alpha .info-text", "#photo-said"):
        contrast = page.evaluate(CONTRAST, selector)
        assert contrast >= 4.5, f"{selector}: {contrast}"


# The WCAG contrast of an element's text against its background.
CONTRAST = """selector => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92
    : ((v + 0.055) / 1.055) ** 2.4).reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  let element = document.querySelector(selector);
  const ink = light(numbers(getComputedStyle(element).color));
  let paper = [0, 0, 0, 0];
  while (element && (paper.length > 3 && paper[3] === 0)) {
    paper = numbers(getComputedStyle(element).backgroundColor);
    element = element.parentElement;
  }
  const ground = paper.length > 3 && paper[3] === 0 ? 1 : light(paper);
  return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
}"""


def test_two_simultaneous_clients_are_isolated(visit: Any, tmp_path: Path) -> None:
    first, second = visit(), visit()
    one, other = photograph(tmp_path, "one.png"), photograph(tmp_path, "other.png", turn=1)
    send(first, "#photo-upload", one)
    send(second, "#photo-upload", other)
    for page in (first, second):
        page.wait_for_selector("#photo-legend table")
    largest = [page.inner_text("#photo-legend tbody tr >> nth=0").split()[0] for page in (first, second)]
    assert largest == ["paper", "night"]
    for page in (first, second):
        page.locator("#photo-iterations input[type=number]").fill("0")
    for page, name in ((first, "one"), (second, "other")):
        says(page, "#photo-said", "0.0 % of the pixels")
        page.get_by_role("tab", name="Download").click()
        says(page, "#photo-command", f"segment {name}.png")


def test_the_server_stops_after_the_running_computation(
    tmp_path: Path, browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread in native code while the interpreter ends would abort the process."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    own = Server(tmp_path)
    page = browser.new_context().new_page()
    page.set_default_timeout(WAIT)
    page.goto(own.address)
    page.wait_for_selector("#photo-upload")
    opened(page, photograph(tmp_path))
    page.locator("#photo-iterations input[type=number]").fill("15")
    page.locator("#photo-theta_alpha input[type=number]").fill("200")
    code, errors = own.stop()
    page.context.close()
    assert code == 130, errors
    assert errors.splitlines()[-1].startswith("stopped by Ctrl-C; the page is closed")


def test_the_film_shows_every_iteration(visit: Any, tmp_path: Path) -> None:
    page = visit()
    opened(page, photograph(tmp_path))
    page.get_by_role("tab", name="After each iteration").click()
    page.wait_for_selector("#photo-film img")
    assert page.locator("#photo-film .caption-label").all_inner_texts()[0].strip() == "T = 0"
    assert page.locator("#photo-film img").count() == 6  # 0 to 5 iterations
