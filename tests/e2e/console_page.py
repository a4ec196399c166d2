"""The console's page in tests: opening it, waiting for what it shows, and what must hold of it in every state."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tests.browser import Watched

if TYPE_CHECKING:
    from playwright.sync_api import Page

TOKEN = "operator-of-these-tests"
PATIENCE_MS = 60_000
UNNAMED = """() => [...document.querySelectorAll('input, select, textarea, button, summary, a')]
    .filter(node => node.offsetParent !== null)
    .filter(node => !(node.labels?.length || node.getAttribute('aria-label') || node.textContent.trim()))
    .map(node => node.outerHTML)"""
SILENT_CHARTS = "() => [...document.querySelectorAll('svg:not([aria-hidden]):not([aria-label])')].length"


def shoot(watched: Watched, folder: Path, name: str) -> None:
    """Keep a picture of the whole page."""
    folder = Path(os.environ.get("CONSOLE_SCREENSHOTS", folder))
    folder.mkdir(parents=True, exist_ok=True)
    watched.page.screenshot(path=folder / f"{name}.png", full_page=True)


def unlock(page: "Page", url: str, token: str = TOKEN) -> None:
    page.goto(url)
    page.wait_for_selector("#token")
    page.keyboard.type(token)  # the field has the focus
    page.keyboard.press("Enter")


def shown(page: "Page", selector: str, pattern: str) -> str:
    """Wait until an element's text has this, and return the text."""
    found = page.locator(selector).filter(has_text=re.compile(pattern, re.DOTALL)).first
    found.wait_for(timeout=PATIENCE_MS)
    return found.inner_text()


def looks_right(watched: Watched) -> None:
    """No errors, nothing of another host, nothing cut or sideways, everything named."""
    assert watched.problems == []
    assert watched.other_hosts == []
    assert watched.clipped() == []
    page = watched.page
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.evaluate(UNNAMED) == []
    assert page.evaluate(SILENT_CHARTS) == 0


def set_slider(page: "Page", selector: str, value: float) -> None:
    page.locator(selector).evaluate("(node, value) => { node.value = value; }", str(value))
    page.locator(selector).dispatch_event("input")
