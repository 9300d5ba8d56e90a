"""The page of requests: those under way, those that are over, filters, one of them in full, exports."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

import harness
import pytest
from conftest import Visit
from harness import Stage
from playwright.sync_api import expect

SECRET = "sk-this-must-not-be-shown"


@pytest.fixture(scope="module")
def busy(pyz: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A server with a past: 30 requests to alpha, 3 to beta of which one went wrong."""
    with harness.stage(pyz, tmp_path_factory.mktemp("activity"), {"alpha": {}, "beta": {}}) as stage:
        for n in range(30):
            assert stage.ask("alpha", tag=f"number {n}").status == 200
        for status in (200, 200, 418):
            assert stage.ask("beta", status=status).status == status
        yield stage


def test_cancel_what_runs(busy: Stage, visit: Visit) -> None:
    me = visit(busy.server.url, "activity")
    running = me.page.get_by_role("region", name="Running")
    expect(running).to_contain_text("nothing at the moment")
    streaming = busy.call("beta", stream=True, chunk_gate="never", tag="stream")
    busy.happens("first chunk", "beta")
    queued = busy.queue("alpha")
    rows = running.locator("li")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("Streaming")
    expect(rows.last).to_contain_text("Queued")
    expect(me.page).to_have_title("▶ 2 · Activity · llamaswap")
    # What streams is asked about, what waits is not.
    me.button("Cancel the request to beta").click()
    me.page.get_by_role("dialog").get_by_role("button", name="Cancel", exact=True).click()
    expect(rows).to_have_count(2)
    me.button("Cancel the request to alpha").click()
    expect(rows).to_have_count(1)
    assert queued.wait().status == 410
    me.button("Cancel the request to beta").click()
    me.page.get_by_role("dialog").get_by_role("button", name=re.compile("(End|Cancel) the request")).click()
    expect(running).to_contain_text("nothing at the moment")
    assert not streaming.wait().complete
    busy.happens("gone", "beta")
    # Both are rows now, the later one on top.
    table = me.page.get_by_role("region", name="Finished requests")
    expect(table.locator("tbody tr").nth(0)).to_contain_text("beta")
    expect(table.locator("tbody tr").nth(1)).to_contain_text("410")


def test_filter_sort_and_page(busy: Stage, visit: Visit) -> None:
    me = visit(busy.server.url, "activity")
    table = me.page.get_by_role("region", name="Finished requests")
    rows = table.locator("tbody tr")
    expect(rows.first).to_be_visible()
    me.page.get_by_label("Model", exact=True).select_option("beta")
    expect(me.page).to_have_url(re.compile("model=beta"))
    expect(rows.filter(has_text="alpha")).to_have_count(0)
    expect(rows.first).to_contain_text("beta")
    me.page.get_by_label("Status").select_option("4xx")
    expect(rows.filter(has_text="418")).to_have_count(1)
    expect(rows.filter(has_text="200")).to_have_count(0)
    me.page.reload()
    expect(rows.filter(has_text="418")).to_have_count(1)
    me.page.get_by_label("Status").select_option("5xx")
    expect(me.page.locator("main")).to_contain_text("No request matches")
    me.button("Clear the filters").click()
    me.page.get_by_label("Rows on a page").select_option("25")
    expect(rows).to_have_count(25)
    me.button("Last page").click()
    expect(me.page).to_have_url(re.compile(r"page=2"))
    expect(rows.last).to_contain_text("alpha")
    me.page.go_back()
    expect(me.button("First page")).to_be_disabled()
    me.page.keyboard.press("n")
    expect(me.button("Next page")).to_be_disabled()
    me.page.keyboard.press("n")  # there is none
    expect(me.page).to_have_url(re.compile("page=2"))
    table.get_by_role("button", name="Model").click()
    expect(table.locator("th[aria-sort]")).to_contain_text("Model")
    expect(me.page).not_to_have_url(re.compile("page=2"))


def test_new_rows_appear(busy: Stage, visit: Visit) -> None:
    me = visit(busy.server.url, "activity")
    rows = me.page.get_by_role("region", name="Finished requests").locator("tbody tr")
    expect(rows.first).to_be_visible()
    busy.ask("alpha", status=201)
    expect(rows.first).to_contain_text("201")
    # Sorted otherwise the list stands still, and says that there is more.
    me.page.get_by_role("region", name="Finished requests").get_by_role("button", name="Model").click()
    expect(me.page).to_have_url(re.compile("sort=model"))
    busy.ask("alpha", status=202)
    me.page.get_by_role("button", name=re.compile(r"^\d+ new$")).click()
    expect(rows.first).to_contain_text("202")


def test_one_request(busy: Stage, visit: Visit) -> None:
    """What was asked and answered, by its address; secrets are not in it."""
    body = {"model": "alpha", "messages": [{"role": "user", "content": "Is <i>this</i> & that so?"}], "user": "me"}
    answer = busy.post(harness.CHAT, body, {"Authorization": f"Bearer {SECRET}", "X-Session-Id": "s-1"})
    assert answer.status == 200
    me = visit(busy.server.url, "activity")
    rows = me.page.get_by_role("region", name="Finished requests").locator("tbody tr")
    rows.first.get_by_role("link").first.click()
    dialog = me.page.get_by_role("dialog")
    expect(dialog).to_contain_text("Is <i>this</i> & that so?")
    expect(dialog).to_contain_text("I am alpha")
    expect(me.page).to_have_url(re.compile(r"id=\d+"))
    dialog.get_by_role("tab", name="Headers").click()
    expect(dialog).to_contain_text(re.compile("authorization", re.I))
    assert SECRET not in dialog.inner_text()
    dialog.get_by_role("tab", name="Request", exact=True).click()
    expect(dialog).to_contain_text('"user"')
    me.context.grant_permissions(["clipboard-read", "clipboard-write"])
    dialog.get_by_role("button", name="Copy as curl").click()
    copied = me.page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("curl ") and f"{busy.server.url}/v1/chat/completions" in copied and SECRET not in copied
    address = me.page.url
    me.page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(me.page).not_to_have_url(re.compile(r"id=\d+"))
    me.page.goto(address)
    expect(dialog).to_contain_text("I am alpha")
    me.page.goto(f"{busy.server.url}/ui/activity?id=987654")
    expect(dialog).to_contain_text("There is no request 987654")


def test_export(busy: Stage, visit: Visit, tmp_path: Path) -> None:
    me = visit(busy.server.url, "activity?model=beta&status=ok")
    expect(me.page.get_by_role("region", name="Finished requests").locator("tbody tr").first).to_be_visible()
    texts = {}
    for name in ("CSV", "JSON", "Markdown"):
        me.button("Export").click()
        with me.page.expect_download() as download:
            me.page.get_by_role("dialog").get_by_role("button", name=name).click()
        download.value.save_as(tmp_path / name)
        texts[name] = (tmp_path / name).read_text("utf-8-sig")
        expect(me.page.get_by_role("dialog")).to_have_count(0)
    table = list(csv.DictReader(texts["CSV"].splitlines()))
    rows = json.loads(texts["JSON"])
    assert len(rows) == len(table) >= 2
    assert {row["model"] for row in rows} == {"beta"}
    assert texts["Markdown"].count("| beta |") == len(rows) and texts["Markdown"].startswith("| ")


def test_speeds(real: object, visit: Visit) -> None:
    """llama.cpp tells how fast it was: tokens, speeds and their distribution are there."""
    url = real.url  # type: ignore[attr-defined]
    me = visit(url, "playground?model=apples")
    me.page.get_by_label("Message", exact=True).fill("Hello")
    me.page.keyboard.press("Enter")
    expect(me.page.locator("article.assistant")).to_contain_text("old trees")
    me.page.get_by_role("link", name="Activity").click()
    speeds = me.page.locator("details", has_text="Speeds")
    expect(speeds).to_contain_text(re.compile(r"\d+ requests?"))
    expect(speeds).to_contain_text("Generation")
    expect(speeds).to_contain_text(re.compile("50|median", re.I))
