"""The page of logs: lines as they come, filters, pausing, downloads, and very many lines."""

from __future__ import annotations

import re
from pathlib import Path

from conftest import Visit
from harness import Stage
from playwright.sync_api import expect


def test_lines_arrive(stage: Stage, visit: Visit) -> None:
    me = visit(stage.server.url, "logs")
    proxy = me.page.get_by_role("region", name="Log of proxy")
    expect(proxy).to_contain_text("GET /")
    stage.script("alpha", say="\x1b[32mgreen\x1b[0m and &lt;plain&gt;\n", complain="0.00.123 E error: not really\n")
    stage.ask("alpha")
    expect(proxy).to_contain_text("POST /v1/chat/completions")
    me.page.get_by_role("radio", name="All models").check()
    expect(me.page).to_have_url(re.compile(r"\?source=upstream$"))
    upstream = me.page.get_by_role("region", name="Log of upstream")
    expect(upstream.get_by_text("green", exact=True)).to_be_visible()
    expect(upstream).to_contain_text("and &lt;plain&gt;")
    expect(upstream.locator(".line.error").last).to_contain_text("error: not really")
    me.page.get_by_label("Log of one model").select_option("alpha")
    expect(me.page).to_have_url(re.compile(r"\?model=alpha$"))
    mine = me.page.get_by_role("region", name="Log of alpha")
    expect(mine).to_contain_text("green and &lt;plain&gt;")
    me.page.reload()
    expect(mine).to_contain_text("green and &lt;plain&gt;")


def test_filter(stage: Stage, visit: Visit) -> None:
    numbers = "".join(f"number {n}\n" for n in range(200))
    stage.script("alpha", say=numbers)
    stage.ask("alpha")
    me = visit(stage.server.url, "logs?model=alpha&filter=number+%5Cd7%24")
    log = me.page.get_by_role("region", name="Log of alpha")
    lines = log.locator(".line")
    expect(lines).to_have_count(9)  # 17, 27 … 97
    expect(lines.first.locator(".mark")).to_have_text("number 17")
    expect(me.page.locator("main")).to_contain_text(re.compile(r"9 lines of [\d,]+ match"))
    field = me.page.get_by_role("searchbox")
    field.fill("number (")
    expect(me.page.get_by_role("alert")).to_be_visible()
    expect(field).to_have_attribute("aria-invalid", "true")
    field.fill("no such thing")
    expect(log).to_contain_text(re.compile("None of .* lines matches"))
    field.press("Escape")
    expect(log).to_contain_text("number 199")
    expect(me.page).to_have_url(re.compile(r"\?model=alpha$"))
    # Backtracking without end: the page stays alive.
    field.fill("(n+)+x$")
    field.fill("number 42")
    expect(lines).to_have_count(1)


def test_pause_and_follow(stage: Stage, visit: Visit) -> None:
    stage.script("alpha", flood=40_000)
    stage.ask("alpha")
    me = visit(stage.server.url, "logs?model=alpha")
    log = me.page.get_by_role("region", name="Log of alpha")
    expect(log).to_contain_text(f"{399:099}")
    log.hover()
    me.page.mouse.wheel(0, -3000)
    expect(me.button("Follow")).to_be_visible()
    top = log.evaluate("view => view.scrollTop")
    stage.unload("alpha")
    stage.script("alpha", flood=10_000, say="a second start\n")
    stage.ask("alpha")
    expect(me.page.get_by_role("button", name=re.compile(r"\d+ new lines"))).to_be_visible()
    assert log.evaluate("view => view.scrollTop") == top, "what is being read moved"
    expect(log).not_to_contain_text("a second start")
    me.page.keyboard.press("f")
    expect(log).to_contain_text(f"{99:099}")
    expect(me.button("Pause")).to_be_visible()


def test_download_and_clear(stage: Stage, visit: Visit, tmp_path: Path) -> None:
    stage.script("alpha", say="one\ntwo\nthree\n")
    stage.ask("alpha")
    me = visit(stage.server.url, "logs?model=alpha&filter=^t")
    expect(me.page.get_by_role("region", name="Log of alpha")).to_contain_text("three")
    with me.page.expect_download() as download:
        me.button("Download").click()
    assert re.fullmatch(r"alpha-[\d-]+\.log", download.value.suggested_filename)
    download.value.save_as(tmp_path / "log")
    assert (tmp_path / "log").read_text().split()[-2:] == ["two", "three"]
    me.button("Clear the view").click()
    expect(me.page.get_by_role("region", name="Log of alpha")).not_to_contain_text("three")


def test_very_many_lines_are_not_all_drawn(stage: Stage, visit: Visit) -> None:
    me = visit(stage.server.url, "logs?source=upstream")
    log = me.page.get_by_role("region", name="Log of upstream")
    stage.script("alpha", flood=5_000_000)
    stage.ask("alpha")
    expect(log).to_contain_text(f"{49_999:099}")
    assert log.locator(".line").count() < 200
    # From one end to the other at once.
    log.focus()
    me.page.keyboard.press("Home")
    expect(log).not_to_contain_text(f"{49_999:099}")
    me.page.keyboard.press("End")
    expect(log).to_contain_text(f"{49_999:099}")


def test_its_settings_are_kept(stage: Stage, visit: Visit) -> None:
    stage.script("alpha", say="long " * 400 + "\n")
    stage.ask("alpha")
    me = visit(stage.server.url, "logs?model=alpha")
    view = me.page.get_by_role("region", name="Log of alpha")
    line = view.locator(".line", has_text="long long").first
    expect(me.button("Wrap long lines")).to_have_attribute("aria-pressed", "true")
    tall = line.bounding_box()["height"]
    me.page.keyboard.press("w")
    expect(me.button("Wrap long lines")).to_have_attribute("aria-pressed", "false")
    assert line.bounding_box()["height"] < tall / 3
    me.page.keyboard.press("+")
    expect(view).to_have_css("font-size", "13px")
    me.page.reload()
    expect(view).to_have_css("font-size", "13px")
    expect(me.button("Wrap long lines")).to_have_attribute("aria-pressed", "false")
