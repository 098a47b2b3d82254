# SPDX-License-Identifier: MIT
"""Pictures of the page for docs/images, by a headless Chromium: photograph, scribbles, dark, telephone.

    python scripts/docs_screenshots.py [FOLDER]     FOLDER is docs/images; writes page_*.webp

Needs the extras `web` and `demo`, Playwright and a Chromium. The photographs come with
scikit-image (astronaut, by NASA, public domain) and scikit-learn (flower, CC BY 2.0, by vultilion).
"""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from crfrnn.app import Options, served

ROOT = Path(__file__).resolve().parents[1]
MOST = 120_000  # bytes of a picture
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
WAIT = 120_000  # milliseconds
# Shares of the flower's width and height.
STROKES = (
    ("background", ((0.08, 0.15), (0.1, 0.8), (0.35, 0.93))),
    ("background", ((0.3, 0.06), (0.75, 0.12), (0.85, 0.7))),
    ("object 1", ((0.33, 0.55), (0.45, 0.3), (0.58, 0.4), (0.62, 0.6), (0.48, 0.72))),
    ("object 1", ((0.55, 0.96), (0.64, 0.95))),
)


@contextmanager
def opened(browser: Any, address: str, **options: Any) -> Iterator[Any]:
    """The page in a new browser context."""
    context = browser.new_context(device_scale_factor=1, **options)
    page = context.new_page()
    page.set_default_timeout(WAIT)
    page.goto(address)
    page.wait_for_selector("#photo-upload")
    yield page
    context.close()


def photograph(page: Any) -> None:
    """The astronaut, the labels before and after."""
    page.click("#photo-astronaut")
    page.wait_for_selector("#photo-legend table")
    page.wait_for_function("document.querySelector('#photo-compare .outer').style.transform.length > 12")


def scribbles(page: Any) -> None:
    """Strokes on the flower and on its background."""
    page.get_by_role("tab", name="Scribbles").click()
    page.click("#scribbles-flower")
    page.wait_for_selector("canvas.pad-canvas.ready")
    canvas = page.locator("canvas.pad-canvas")
    for name, points in STROKES:
        page.get_by_role("radio", name=name).click()
        canvas.scroll_into_view_if_needed()
        seen = canvas.bounding_box()
        for number, (x, y) in enumerate(points):
            page.mouse.move(seen["x"] + x * seen["width"], seen["y"] + y * seen["height"], steps=8)
            if number == 0:
                page.mouse.down()
        page.mouse.up()
    page.wait_for_selector("#scribbles-legend table")
    page.wait_for_function("document.querySelector('#scribbles-compare .outer').style.transform.length > 12")
    settled(page)


def settled(page: Any) -> None:
    """Wait until the status text has been unchanged for a second."""
    before = None
    while (said := page.locator(".said").all_inner_texts()) != before:
        before = said
        page.wait_for_timeout(1000)


def write(page: Any, path: Path, top: str | None = None) -> None:
    """What the window shows, as WebP, with the element `top` at its upper edge."""
    settled(page)
    page.evaluate(
        "selector => selector ? document.querySelector(selector).scrollIntoView() : scrollTo(0, 0)", top
    )
    page.mouse.move(1, 1)
    page.wait_for_timeout(500)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    for quality in range(88, 40, -6):
        picture.save(path, "WEBP", quality=quality, method=6)
        if path.stat().st_size <= MOST:
            break
    print(path, picture.size, path.stat().st_size, "bytes")


def main() -> None:
    from playwright.sync_api import sync_playwright

    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with served(Options()) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        with opened(browser, address, viewport=WIDE) as page:
            photograph(page)
            write(page, folder / "page_photograph.webp")
            scribbles(page)
            write(page, folder / "page_scribbles.webp", "#scribbles-compare")
        with opened(browser, address, viewport=WIDE, color_scheme="dark") as page:
            photograph(page)
            page.get_by_role("tab", name="After each iteration").click()
            page.wait_for_selector("#photo-film img")
            write(page, folder / "page_dark.webp", "#photo-compare")
        with opened(browser, address, viewport=PHONE, has_touch=True) as page:
            photograph(page)
            write(page, folder / "page_phone.webp", "#photo-compare")
        browser.close()


if __name__ == "__main__":
    main()
