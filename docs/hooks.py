"""mkdocs hook: show models/FORMAT.md as a page of the site."""

from pathlib import Path
from typing import Any

FORMAT = Path(__file__).resolve().parent.parent / "models/FORMAT.md"


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Replace the page that links to the specification with the specification."""
    return FORMAT.read_text("utf-8") if page.file.src_uri == "reference/bundle-format.md" else markdown
