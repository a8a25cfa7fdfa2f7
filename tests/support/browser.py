"""A tab of Chromium: what it requests and logs, and how long an answer takes."""

from typing import Any
from urllib.parse import urlsplit

# Click a button or type a word. Resolves to the time in ms until the last element of a selector is another one and is
# painted. The first task after the callback of a frame runs when the frame is complete.
ANSWERED = """([control, selector]) => new Promise((resolve) => {
  const answer = document.querySelector(".answer");
  const last = () => [...answer.querySelectorAll(selector)].at(-1);
  const before = last();
  const started = performance.now();
  new MutationObserver((_, observer) => {
    if (!last() || last() === before) return;
    observer.disconnect();
    requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - started)));
  }).observe(answer, { childList: true, subtree: true });
  if (control.type === "submit") return control.click();
  control.value += "word ";
  control.dispatchEvent(new Event("input"));
})"""


class Tab:
    """A page in the browser, with what it requested and what it logged."""

    def __init__(self, browser: Any, address: str, *, key: str = "", **context: Any) -> None:
        self.address = address
        self.key = key
        self.page = browser.new_context(**context).new_page()
        self.page.set_default_timeout(20_000)
        self.hosts: set[str] = set()
        self.sizes: list[int] = []
        self.errors: list[str] = []
        self.page.on("request", lambda each: self.hosts.add(urlsplit(each.url).netloc))
        self.page.on("pageerror", lambda each: self.errors.append(str(each)))
        self.page.on("console", lambda each: self.errors.append(each.text) if each.type == "error" else None)

    def open(self, view: str) -> Any:
        self.page.goto(f"{self.address}/#{view}")
        if self.key:
            self.enter(self.key)
            self.key = ""  # the page has it
            self.errors = [each for each in self.errors if "401" not in each]
        self.page.locator("main .view").wait_for()
        return self.page

    def enter(self, key: str) -> None:
        self.page.get_by_label("API key").fill(key)
        self.page.get_by_role("button", name="Use this key").click()

    def close(self) -> None:
        """Check what holds for every use of the page."""
        assert not self.errors
        assert self.hosts <= {urlsplit(self.address).netloc, ""}  # "": data and blob URLs
        assert not self.page.context.cookies()
        self.page.context.close()

    def answered_ms(self) -> float:
        """Send the form, or type a word of a stream, and return the time until the answer is painted."""
        live = self.page.url.endswith("#live")
        control = self.page.get_by_label("Text") if live else self.page.locator("button[type=submit]")
        return float(self.page.evaluate(ANSWERED, [control.element_handle(), ".tagged mark" if live else ".timing"]))

    def first_paint_ms(self) -> float:
        """Return when the page that is open had its first contentful paint."""
        entry = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
        self.page.wait_for_function(entry)
        return float(self.page.evaluate(entry))
