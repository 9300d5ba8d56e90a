"""A person at a browser window, who notices everything that must never happen."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from typing import Any

from playwright.sync_api import Browser, expect, sync_playwright
from zipapp_runner import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE_MS = 15_000  # for what ought to happen at once, on a busy machine
PHONE = {"width": 390, "height": 844}
AXE = ROOT / "ui" / "node_modules" / "axe-core" / "axe.min.js"
SERIOUS = ("serious", "critical")
ARGUMENTS = [
    "--no-sandbox",  # there is none in a container
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-gpu",
]

# Playwright hears of a violation only by the console, and not of those that a policy swallows.
LISTEN = """
document.addEventListener('securitypolicyviolation', (event) =>
  console.error(`Content-Security-Policy: ${event.violatedDirective} ${event.blockedURI}`));
"""
SETTLED = """() => Promise.all(document.getAnimations()
  .filter((animation) => animation.effect.getComputedTiming().iterations !== Infinity)
  .map((animation) => animation.finished.catch(() => 0))).then(() => 0)"""
COVERED = """() => [...document.querySelectorAll('main :is(a, button, input, select, textarea, summary)')]
  .filter((element) => {
    if (!element.checkVisibility({visibilityProperty: true, opacityProperty: true}) || element.disabled) return false;
    element.scrollIntoView({block: 'center', behavior: 'instant'});
    const {left, top, width, height} = element.getBoundingClientRect();
    const hit = document.elementFromPoint(left + width / 2, top + height / 2);
    const reached = hit && (element.contains(hit) || hit.contains(element) || hit.closest('label')?.contains(element));
    return width > 0 && !reached;
  }).map((element) => element.outerHTML.slice(0, 160))"""
OVERFLOW = """() => {
  const width = document.documentElement.clientWidth;
  const wide = document.documentElement.scrollWidth > width;
  return !wide ? [] : [...document.querySelectorAll('body *')]
    .filter((element) => element.getBoundingClientRect().right > width + 0.5)
    .slice(0, 8).map((element) => element.outerHTML.slice(0, 160));
}"""


@contextlib.contextmanager
def launch() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Visitor:
    """A window of its own, with its own storage; `page` is Playwright's.

    What a test does on purpose it announces: `expects` are patterns of console errors that may come.
    """

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        expect.set_options(timeout=PATIENCE_MS)
        self.url = url
        self.expects: list[str] = []
        self.requests: list[str] = []
        self.troubles: list[str] = []
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        self.context.set_default_timeout(PATIENCE_MS)
        self.context.add_init_script(LISTEN)
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.context.on("console", self._console)
        self.context.on("weberror", lambda error: self.troubles.append(f"uncaught: {error.error}"))
        self.page = self.context.new_page()

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.troubles.append(f"{message.type}: {message.text} ({message.location.get('url', '')})")

    def go(self, path: str) -> None:
        """Open a page of the UI by its address and wait until it is drawn."""
        self.page.goto(f"{self.url}/ui/{path}")
        self.page.locator("main h1").wait_for()

    def leave(self) -> None:
        self.context.close()

    def check(self) -> None:
        own = re.compile(rf"(blob:)?{re.escape(self.url)}/|data:")
        away = [url for url in self.requests if not own.match(url)]
        assert not away, f"requests to other hosts: {away}"
        unexpected = [text for text in self.troubles if not any(re.search(known, text) for known in self.expects)]
        assert not unexpected, unexpected

    # -- what is looked at everywhere

    def row(self, model: str) -> Any:
        """A model's entry on the page of models."""
        return self.page.locator(f'li[data-model="{model}"]')

    def button(self, name: str, exact: bool = True) -> Any:
        return self.page.get_by_role("button", name=name, exact=exact)

    def toast(self) -> Any:
        return self.page.locator(".toasts")

    def sideways(self) -> list[str]:
        """What sticks out to the right, so that the page scrolls sideways."""
        found: list[str] = self.page.evaluate(OVERFLOW)
        return found

    def covered(self) -> list[str]:
        """What one could tap or type into, if something else did not lie over it wherever one scrolls."""
        found: list[str] = self.page.evaluate(COVERED)
        return found

    def axe(self) -> list[str]:
        """Violations of level serious or above, as axe-core finds them; each with the elements it is about."""
        if not self.page.evaluate("typeof axe !== 'undefined'"):
            self.page.evaluate(AXE.read_text("utf-8") + ";0")
        self.page.evaluate(SETTLED)  # colours on their way to others are not what is read
        result = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        told = []
        for found in result["violations"]:
            if found["impact"] in SERIOUS:
                told.append(f"{found['impact']} {found['id']}: {found['help']}")
                for node in found["nodes"][:4]:
                    told += [f"  {node['html'][:200]}", *(f"    {check['message']}" for check in node["any"][:1])]
        return told
