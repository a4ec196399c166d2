"""Pages in a real headless Chromium: what they print, what fails in them, and which hosts they ask.

    def test_page(chromium: Chromium) -> None:
        with chromium.page(width=390, dark=True) as watched:
            watched.page.goto(url)
            assert watched.problems == []

The fixture `chromium` is in tests/conftest.py. Tests that use it are plain functions: Playwright's synchronous calls do
not go with a running event loop.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DESKTOP, PHONE = 1280, 390  # CSS pixels of width
LOCAL = {"", "127.0.0.1", "localhost"}

# Elements with text of their own that is cut by their box or lies outside the page. Returned as short descriptions.
CLIPPED = """
() => {
  const found = [];
  const width = document.documentElement.clientWidth;
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].filter(n => n.nodeType === 3 && n.data.trim());
    if (!own.length || ['SCRIPT', 'STYLE', 'TITLE', 'OPTION', 'NOSCRIPT'].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    if (style.display === 'none' || style.visibility === 'hidden') continue;
    const range = document.createRange();
    range.selectNodeContents(element);
    const text = range.getBoundingClientRect();
    if (!text.width || !text.height) continue;
    let box = {left: 0, right: width, top: -1e9, bottom: 1e9}, cut = null;
    const note = (by) => { cut = cut || by; };
    if (text.left < -1) note('the left edge of the page');
    for (let outer = element; outer && outer !== document.body; outer = outer.parentElement) {
      const how = getComputedStyle(outer);
      const edges = outer.getBoundingClientRect();
      const scrolls = /auto|scroll/.test(how.overflowX);
      if (scrolls) { box = null; break; }   // it can be scrolled to
      const hides = /hidden|clip/.test(how.overflowX) || outer.tagName === 'svg';
      if (hides && (text.left < edges.left - 1 || text.right > edges.right + 1 ||
                    text.top < edges.top - 1 || text.bottom > edges.bottom + 1)) note(outer.tagName);
    }
    if (box && text.right > width + 1) note('the right edge of the page');
    if (cut) found.push(JSON.stringify(element.textContent.trim().slice(0, 60)) + ' is cut by ' + cut);
  }
  return found;
}
"""


def find_chromium() -> str | None:
    """The path of a Chromium: $CHROMIUM, one on the PATH, else one that Playwright has fetched; None without."""
    named = os.environ.get("CHROMIUM")
    if named:
        return named
    for name in NAMES:
        if path := shutil.which(name):
            return path
    fetched = Path.home() / ".cache/ms-playwright"
    return next((str(path) for path in sorted(fetched.glob("chromium-*/chrome-linux*/chrome"))), None)


@dataclass
class Watched:
    """One page, and what was seen while it was open."""

    page: "Page"
    problems: list[str] = field(default_factory=list)  # script errors, console errors and warnings, failed requests
    requests: list[str] = field(default_factory=list)  # all URLs asked for

    @property
    def other_hosts(self) -> list[str]:
        """URLs asked of another host than this machine."""
        return [
            url
            for url in self.requests
            if urlsplit(url).scheme not in ("data", "blob", "about", "file") and urlsplit(url).hostname not in LOCAL
        ]

    def clipped(self) -> list[str]:
        """Texts that their box or the page's edge cuts, each with what cuts it; what can be scrolled to is not."""
        return list(self.page.evaluate(CLIPPED))


class Chromium:
    """A headless Chromium without a network but this machine's."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser

    @contextmanager
    def page(self, width: int = DESKTOP, height: int = 900, *, dark: bool = False, **more: Any) -> Iterator[Watched]:
        """An empty page of `width` by `height` CSS pixels; `more` goes to Playwright's `new_context`."""
        context = self._browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", **more
        )
        try:
            watched = Watched(context.new_page())
            watched.page.on("pageerror", lambda error: watched.problems.append(f"script error: {error}"))
            watched.page.on("console", lambda message: _note(watched, message))
            watched.page.on("request", lambda request: watched.requests.append(request.url))
            watched.page.on("requestfailed", lambda request: watched.problems.append(f"failed: {request.url}"))
            yield watched
        finally:
            context.close()


def _note(watched: Watched, message: Any) -> None:
    if message.type in ("error", "warning"):
        watched.problems.append(f"console {message.type}: {message.text}")


@contextmanager
def running_chromium() -> Iterator[Chromium]:
    """A Chromium for the block; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium: install one, or name it in CHROMIUM")
    with playwright.sync_playwright() as started:
        # No sandbox: it cannot start as root, and the pages are our own. The proxy is where nobody listens.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        browser = started.chromium.launch(
            executable_path=path,
            args=arguments,
            proxy={"server": "http://127.0.0.1:9", "bypass": "127.0.0.1,localhost"},
        )
        try:
            yield Chromium(browser)
        finally:
            browser.close()
