"""The page of the machine: figures as they come, what each model takes, loads marked on the time axis."""

from __future__ import annotations

import re

from conftest import Visit
from harness import Stage
from playwright.sync_api import expect


def test_the_machine_and_its_models(stage: Stage, visit: Visit) -> None:
    stage.ask("alpha")
    me = visit(stage.server.url, "performance")
    main = me.page.locator("main")
    expect(main).to_contain_text("CPU")
    expect(main).to_contain_text("Memory")
    expect(main).to_contain_text("On the time axes: ▲ model loaded")
    expect(main.locator("section", has_text="Models").last).to_contain_text("alpha")
    me.page.get_by_role("radio", name="Table").check()
    expect(me.page).to_have_url(re.compile("view=table"))
    happened = me.page.get_by_role("region", name="Loads, unloads and crashes")
    expect(happened).to_contain_text("loaded")
    happened.get_by_role("link", name="alpha").first.click()
    expect(main.locator("h1")).to_have_text("Alpha")


def test_keys_choose_the_time(stage: Stage, visit: Visit) -> None:
    me = visit(stage.server.url, "performance")
    expect(me.page.locator("main")).to_contain_text("CPU")
    me.page.keyboard.press("1")
    expect(me.page).to_have_url(re.compile("range="))
    first = me.page.url
    me.page.keyboard.press("2")
    expect(me.page).not_to_have_url(first)
    me.page.keyboard.press("v")
    expect(me.page).to_have_url(re.compile("view=table"))
