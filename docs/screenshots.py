"""Write docs/images/page: every view of the page, in light and dark, wide and narrow.

Start the service, then run `python docs/screenshots.py`. Needs playwright, Pillow, and Chromium.
"""

import io
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

FOLDER = Path(__file__).resolve().parent / "images/page"
WIDTHS = {"wide": 1100, "narrow": 360}
HEIGHT, COLORS = 800, 160  # pixels of a narrow picture at least; colors of a picture
REVIEW = "The plot is a mess and the jokes are not funny, but I laughed."


def ner(page: Page) -> None:
    page.locator("select[name=model]").select_option("ner-en")


def review(page: Page) -> None:
    page.locator("select[name=model]").select_option("sentiment-en")
    page.locator("[name=inputs]").fill(REVIEW)
    page.get_by_role("button", name="Look inside").click()
    page.locator(".heat th", has_text="laughed").wait_for()
    page.get_by_label("Part").select_option("memory")


def load(page: Page) -> None:
    for _ in range(500):
        page.request.post("v1/classify", data={"inputs": REVIEW})
        page.wait_for_timeout(10)


PREPARE: dict[str, Any] = {"tag": ner, "inside": review, "load": load}


def main(address: str = "http://localhost:3000/") -> None:
    """Visit every view that the service has."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            for size, width in WIDTHS.items():
                viewport: Any = {"width": width, "height": HEIGHT}
                page = browser.new_page(base_url=address, viewport=viewport, color_scheme=scheme)
                page.goto(address)
                page.locator("nav a").first.wait_for()
                for view in page.locator("nav a").evaluate_all("links => links.map((link) => link.hash.slice(1))"):
                    page.goto(f"{address}#{view}")
                    page.wait_for_timeout(2500)
                    if view in PREPARE:
                        PREPARE[view](page)
                        page.wait_for_timeout(300)
                    save(page.screenshot(full_page=True), FOLDER / f"{view}-{scheme}-{size}.png")
                    print(f"wrote {view}-{scheme}-{size}.png")
                page.close()
        browser.close()


def save(picture: bytes, path: Path) -> None:
    """Save a picture with few colors, which halves its size."""
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(COLORS).save(path, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
