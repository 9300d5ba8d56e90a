"""The page of models, and that of one model: load, swap, fail, unload, and what is told meanwhile."""

from __future__ import annotations

import re

from conftest import Visit
from harness import Stage
from playwright.sync_api import expect


def test_load_and_unload(stage: Stage, visit: Visit) -> None:
    stage.script("alpha", health_gate="go")
    me = visit(stage.server.url)
    row = me.row("alpha")
    expect(row).to_contain_text("Not loaded")
    expect(row).to_contain_text("The first of them")
    expect(row).to_contain_text("first")
    me.button("Load alpha").click()
    expect(row).to_contain_text("Loading")
    expect(row).to_contain_text(re.compile(r"0:0\d|first load"))
    expect(me.page).to_have_title("◐ loading · Models · llamaswap")
    stage.open("go")
    expect(row).to_contain_text("Ready")
    expect(row).to_contain_text("Unloads in")
    expect(me.page).to_have_title("Models · llamaswap")
    expect(me.page.get_by_role("link", name="Open alpha's own page")).to_have_attribute("href", "/upstream/alpha/")
    me.button("Unload alpha").click()
    expect(row).to_contain_text("Not loaded")
    expect(me.toast()).to_be_empty()
    # The next load knows how long one usually takes.
    stage.script("alpha", health_gate="again")
    me.button("Load alpha").click()
    expect(row).to_contain_text(re.compile("of usually|longer than the usual"), use_inner_text=True)
    stage.open("again")
    expect(row).to_contain_text("Ready")


def test_cancel_a_load(stage: Stage, visit: Visit) -> None:
    stage.script("beta", health_gate="never")
    me = visit(stage.server.url)
    me.button("Load beta").click()
    me.button("Cancel loading beta").click()
    expect(me.button("Load beta")).to_be_enabled()
    expect(me.row("beta")).to_contain_text(re.compile("Not loaded|Failed"))  # as it was before


def test_a_swap_says_what_it_waits_for(stage: Stage, visit: Visit) -> None:
    me = visit(stage.server.url)
    me.button("Load alpha").click()
    expect(me.row("alpha")).to_contain_text("Ready")
    held = stage.hold("alpha", "held")
    expect(me.row("alpha")).to_contain_text("Running1")
    expect(me.page).to_have_title("▶ 1 · Models · llamaswap")
    me.button("Load beta").click()
    expect(me.row("beta")).to_contain_text("Waits until alpha has finished")
    stage.open("held")
    assert held.wait().status == 200
    expect(me.row("beta")).to_contain_text("Ready")
    expect(me.row("alpha")).to_contain_text("Not loaded")


def test_unloading_a_busy_model_asks_first(stage: Stage, visit: Visit) -> None:
    stage.ask("alpha")
    held = stage.hold("alpha", "held")
    me = visit(stage.server.url)
    expect(me.row("alpha")).to_contain_text("Running1")
    me.button("Unload alpha").click()
    dialog = me.page.get_by_role("dialog")
    expect(dialog).to_contain_text("A request is under way; it will end with an error.")
    dialog.get_by_role("button", name="Cancel").click()
    expect(me.row("alpha")).to_contain_text("Ready")
    me.button("Unload all").click()
    me.page.get_by_role("dialog").get_by_role("button", name="Unload").click()
    expect(me.row("alpha")).to_contain_text("Not loaded")
    assert held.wait().status >= 500 or not held.wait().complete


def test_a_model_that_cannot_start(stage: Stage, visit: Visit) -> None:
    stage.script("beta", exit=7, complain="error: there is no such file <b>model.gguf</b>\n")
    me = visit(stage.server.url)
    me.button("Load beta").click()
    row = me.row("beta")
    expect(row).to_contain_text("Failed")
    expect(row).to_contain_text("exit code 7")
    row.locator("summary").click()
    expect(row).to_contain_text("there is no such file <b>model.gguf</b>")
    row.get_by_role("link", name="beta", exact=True).click()
    expect(me.page.locator("main h1")).to_have_text("beta")
    expect(me.page.locator(".failure")).to_contain_text("exit code 7")
    # The next try that goes well makes it forgotten.
    stage.script("beta")
    me.button("Load beta").click()
    expect(me.page.locator("main header")).to_contain_text("Ready")
    expect(me.page.locator(".failure")).to_have_count(0)


def test_search_and_unlisted_models(stage: Stage, visit: Visit) -> None:
    me = visit(stage.server.url)
    rows = me.page.locator("li[data-model]")
    expect(rows).to_have_count(3)
    me.page.get_by_label("Show unlisted (1)").check()
    expect(rows).to_have_count(4)
    search = me.page.get_by_role("searchbox", name="Search models")
    search.fill("FIRST")  # an alias
    expect(rows).to_have_count(1)
    expect(me.page).to_have_url(re.compile(r"\?search=FIRST$"))
    me.page.reload()
    expect(search).to_have_value("FIRST")
    expect(rows).to_have_count(1)
    search.fill("nothing like it")
    expect(me.page.locator("main")).to_contain_text("No model matches “nothing like it”")
    me.button("Clear the search").click()
    expect(rows).to_have_count(4)  # unlisted ones, as chosen before


def test_one_model(stage: Stage, visit: Visit) -> None:
    """By its address, with a slash and a colon in its id: facts, command, log as it comes, requests."""
    name = "org/lab:model-1.5"
    stage.script(name, say="up and \x1b[1;31mrunning\x1b[0m <script>alert(1)</script>\n")
    me = visit(stage.server.url, f"models/{name}")
    main = me.page.locator("main")
    expect(main.locator("h1")).to_have_text(name)
    expect(main).to_contain_text("With a slash and a colon in its name")
    expect(main).to_contain_text("fake_model.py")
    me.button(f"Load {name}").click()
    log = me.page.get_by_role("region", name=f"Log of {name}")
    expect(log).to_contain_text("up and running <script>alert(1)</script>")
    expect(log.locator(".bold")).to_have_text("running")
    stage.ask(name)
    me.page.get_by_role("tab", name="Requests and speeds").click()
    expect(me.page).to_have_url(re.compile(r"tab=requests$"))
    expect(main.locator("tbody tr")).to_have_count(1)
    stage.ask(name)
    expect(main.locator("tbody tr")).to_have_count(2)
    me.page.keyboard.press("Escape")
    expect(main.locator("h1")).to_have_text("Models")
    me.page.go_back()
    expect(main.locator("h1")).to_have_text(name)


def test_changes_made_elsewhere_are_seen(stage: Stage, visit: Visit) -> None:
    """Two windows, and the command line: all see the same."""
    me, you = visit(stage.server.url), visit(stage.server.url, "models/alpha")
    stage.ask("alpha")
    expect(me.row("alpha")).to_contain_text("Ready")
    expect(you.page.locator("main header")).to_contain_text("Ready")
    expect(you.page.locator("main")).to_contain_text("none under way")
    you.button("Unload alpha").click()
    expect(me.row("alpha")).to_contain_text("Not loaded")
    stage.ask("beta")
    stage.kill(stage.pid("beta"))
    expect(me.row("beta")).to_contain_text(re.compile("Failed|Not loaded"))
    expect(me.row("beta")).to_contain_text("signal")
