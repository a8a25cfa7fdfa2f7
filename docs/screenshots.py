"""Write docs/images/page: every view of the page in light and dark, wide and narrow, and details for the tour.

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
LINE = "To be, or not to be, that is the question"


def ner(page: Page) -> None:
    page.locator("select[name=model]").select_option("ner-en")


def inside(page: Page, model: str, text: str) -> None:
    page.locator("select[name=model]").select_option(model)
    page.locator("[name=inputs]").fill(text)
    page.keyboard.press("Control+Enter")  # a pointer could be above the map
    page.locator("[aria-busy]").wait_for(state="detached")


def review(page: Page) -> None:
    inside(page, "sentiment-en", REVIEW)
    page.get_by_label("Part").select_option("memory")


def load(page: Page) -> None:
    for _ in range(500):
        page.request.post("v1/classify", data={"inputs": REVIEW})
        page.wait_for_timeout(10)


def tour(page: Page) -> None:
    """Save the pictures of docs/tutorials/see-inside.md that no view shows at first."""
    inside(page, "sentiment-en", REVIEW)
    page.get_by_label("Part").select_option("forget")
    save(page.locator(".answer figure").first.screenshot(), FOLDER / "tour-forget.png")
    inside(page, "shakespeare", LINE)
    for layer in (0, 1):
        page.get_by_label("Layer").select_option(index=layer)
        save(page.locator(".answer section figure").screenshot(), FOLDER / f"tour-layer{layer}.png")


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
                if (scheme, size) == ("light", "wide"):
                    page.goto(f"{address}#inside")
                    tour(page)
                page.close()
        browser.close()


def save(picture: bytes, path: Path) -> None:
    """Save a picture with few colors, which halves its size."""
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(COLORS).save(path, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
