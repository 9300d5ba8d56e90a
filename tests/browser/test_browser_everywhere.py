"""What holds for every page: addresses, keyboard, narrow windows, themes, and that everybody can use it."""

from __future__ import annotations

import pytest
from conftest import Visit
from harness import Stage
from playwright.sync_api import expect
from visitor import PHONE, Visitor

PAGES = {
    "models": "Models",
    "models/alpha": "Alpha",
    "models/alpha?tab=requests": "Alpha",
    "activity": "Activity",
    "logs": "Logs",
    "logs?model=alpha": "Logs",
    "performance": "Performance",
    "performance?view=table": "Performance",
    "playground": "Playground",
    "config": "Configuration",
    "config?tab=effective": "Configuration",
    "nowhere": "Not found",
}
KEYS = {
    "m": "Models",
    "t": "Playground",
    "a": "Activity",
    "l": "Logs",
    "e": "Performance",
    "c": "Configuration",
}


@pytest.fixture
def lively(stage: Stage) -> Stage:
    """Something to show on every page: a model that runs, one that failed, requests, a broken line in the log."""
    stage.script("beta", exit=3, complain="0.00.123 E error: out of memory\n")
    assert stage.ask("beta").status == 502
    stage.script("alpha", say="\x1b[31mred\x1b[0m \x1b[33myellow\x1b[0m \x1b[36mcyan\x1b[0m 0123456789" * 40 + "\n")
    stage.ask("alpha")
    stage.ask("alpha", status=404)
    return stage


def settle(me: Visitor) -> None:
    """Wait until what the page asked for has come."""
    expect(me.page.locator("main [aria-busy=true]")).to_have_count(0)
    expect(me.page.locator("main")).not_to_contain_text("Asking for the")


def test_deep_links_and_titles(stage: Stage, visit: Visit) -> None:
    me = visit(stage.server.url)
    for path, title in PAGES.items():
        me.go(path)
        expect(me.page.locator("main h1")).to_have_text(title)
        expect(me.page).to_have_title(f"{'alpha' if title == 'Alpha' else title} · llamaswap")
    for path in ("/", "/ui", "/ui/"):
        me.page.goto(stage.server.url + path)
        expect(me.page.locator("main h1")).to_have_text("Models")


def test_every_page_by_keyboard(stage: Stage, visit: Visit) -> None:
    me = visit(stage.server.url)
    for key, title in KEYS.items():
        me.page.keyboard.press("g")
        me.page.keyboard.press(key)
        expect(me.page.locator("main h1")).to_have_text(title)
        expect(me.page.locator("main h1")).to_be_focused()
    for title in reversed(list(KEYS.values())[:-1]):
        me.page.go_back()
        expect(me.page.locator("main h1")).to_have_text(title)


def test_by_keyboard(stage: Stage, visit: Visit) -> None:
    """Skip link, search, choosing a model, loading it, the list of keys; what is typed is no shortcut."""
    me = visit(stage.server.url)
    press = me.page.keyboard.press
    press("Tab")
    skip = me.page.get_by_role("link", name="Skip to content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    press("Enter")
    expect(me.page.locator("main")).to_be_focused()
    press("/")
    search = me.page.get_by_role("searchbox")
    expect(search).to_be_focused()
    me.page.keyboard.type("glu")
    expect(search).to_have_value("glu")
    press("Escape")
    expect(search).to_have_value("")
    press("Escape")
    press("j")
    press("j")
    expect(me.page.get_by_role("link", name="beta", exact=True)).to_be_focused()
    press("k")
    press("l")
    expect(me.row("alpha")).to_contain_text("Ready")
    press("u")
    expect(me.row("alpha")).to_contain_text("Not loaded")
    press("Enter")
    expect(me.page.locator("main h1")).to_have_text("Alpha")
    press("?")
    dialog = me.page.get_by_role("dialog")
    expect(dialog).to_contain_text("Back to all models")
    press("Escape")
    expect(dialog).to_have_count(0)
    expect(me.page.locator("main h1")).to_have_text("Alpha")


def test_theme(stage: Stage, visit: Visit) -> None:
    me = visit(stage.server.url, color_scheme="dark")
    background = "getComputedStyle(document.documentElement).backgroundColor"
    dark = me.page.evaluate(background)
    me.page.keyboard.press("t")  # from system to light
    light = me.page.evaluate(background)
    assert light != dark
    me.page.reload()
    assert me.page.evaluate(background) == light
    me.page.keyboard.press("t")
    assert me.page.evaluate(background) == dark


def test_on_a_phone(lively: Stage, visit: Visit) -> None:
    """Nothing sticks out to the right, nothing that one taps is hidden under the navigation at the bottom."""
    me = visit(lively.server.url, viewport=PHONE, has_touch=True, is_mobile=True)
    for path in PAGES:
        me.go(path)
        settle(me)
        assert me.sideways() == [], path
        assert me.covered() == [], path
    me.go("models")
    me.page.get_by_role("navigation", name="Pages").get_by_role("link", name="Config").tap()
    expect(me.page.locator("main h1")).to_have_text("Configuration")
    me.go("models")
    me.button("Unload alpha").tap()
    expect(me.row("alpha")).to_contain_text("Not loaded")


def test_reading_at_twice_the_size(lively: Stage, visit: Visit) -> None:
    """WCAG 1.4.10: 320 px wide, which is 1280 at 400 %."""
    me = visit(lively.server.url, viewport={"width": 320, "height": 640})
    for path in PAGES:
        me.go(path)
        settle(me)
        assert me.sideways() == [], path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(lively: Stage, visit: Visit, scheme: str) -> None:
    me = visit(lively.server.url, color_scheme=scheme)
    held = lively.hold("alpha", f"held {scheme}")
    found = {}
    for path in PAGES:
        me.go(path)
        settle(me)
        found[path] = me.axe()
    me.go("models")
    me.page.keyboard.press("?")
    expect(me.page.get_by_role("dialog")).to_be_visible()
    found["help"] = me.axe()
    me.go("activity")
    me.page.get_by_role("region", name="Finished requests").get_by_role("link").first.click()
    expect(me.page.get_by_role("dialog").get_by_role("tab").first).to_be_visible()
    found["one request"] = me.axe()
    lively.open(f"held {scheme}")
    held.wait()
    assert {path: told for path, told in found.items() if told} == {}
