"""The playground with llama.cpp's real server behind it: chats as they stream, stop, again, edits, the other tabs."""

from __future__ import annotations

import json
import re
from typing import Any

from conftest import Visit
from playwright.sync_api import expect
from real_stage import ENDLESS, SAYINGS
from visitor import Visitor
from zipapp_runner import Running


def ask(me: Visitor, text: str) -> None:
    me.page.get_by_label("Message", exact=True).fill(text)
    me.page.keyboard.press("Enter")


def answers(me: Visitor) -> Any:
    return me.page.locator("article.assistant")


def say_more(me: Visitor, body: dict[str, object]) -> None:
    """Put this into the chat's settings."""
    field = me.page.get_by_label("More, as JSON")
    if not field.is_visible():
        me.button("Settings", exact=False).first.click()
    field.fill(json.dumps(body))


def test_a_chat(real: Running, visit: Visit) -> None:
    """Asked by keyboard alone; another model takes over in the middle; it is all there after a reload."""
    me = visit(real.url, "playground?model=apples")
    me.page.keyboard.press("i")
    me.page.keyboard.type("What do you know about <b>fruit</b>?")
    me.page.keyboard.press("Enter")
    expect(answers(me).last).to_contain_text(SAYINGS["apples"])
    expect(answers(me).last).to_contain_text(re.compile(r"\d+ tokens"))
    expect(me.page.locator("article.user")).to_contain_text("<b>fruit</b>?")
    expect(me.page).to_have_url(re.compile("model=apples&chat="))
    me.page.get_by_label("Model", exact=True).select_option("whales")
    ask(me, "And you?")
    expect(answers(me).last).to_contain_text(SAYINGS["whales"])
    expect(answers(me)).to_have_count(2)
    me.page.reload()
    expect(answers(me)).to_have_count(2)
    expect(answers(me).first).to_contain_text(SAYINGS["apples"])
    chats = me.page.get_by_role("complementary", name="Chats")
    expect(chats).to_contain_text("What do you know about <b>fruit</b>?")
    me.button("New").click()
    expect(answers(me)).to_have_count(0)
    me.page.go_back()
    expect(answers(me)).to_have_count(2)


def test_stop_try_again_and_edit(real: Running, visit: Visit) -> None:
    me = visit(real.url, "playground?model=apples")
    say_more(me, ENDLESS)
    ask(me, "Go on and on")
    expect(answers(me).last).to_contain_text("apples")
    expect(me.page).to_have_title(re.compile("^▶ 1 · Playground"))
    me.button("Stop").click()
    expect(answers(me).last).to_contain_text("Stopped.")
    expect(me.page).to_have_title("Playground · llamaswap")
    say_more(me, {"n_predict": 3})
    me.button("Try again").last.click()
    expect(answers(me).last).to_contain_text("Cut off")
    expect(me.page.get_by_label("Version 2 of 2")).to_be_visible()
    me.button("Version before").click()
    expect(answers(me).last).to_contain_text("Stopped.")
    # Up in an empty field edits the last question.
    me.page.get_by_label("Message", exact=True).focus()
    me.page.keyboard.press("ArrowUp")
    box = me.page.locator("article.user textarea")
    expect(box).to_be_focused()
    box.fill("Say it once")
    box.press("Enter")
    expect(me.page.locator("article.user").last).to_contain_text("Say it once")
    expect(answers(me).last).to_contain_text("red apples grow")


def test_an_answer_goes_on_while_another_page_is_shown(real: Running, visit: Visit) -> None:
    me = visit(real.url, "playground?model=whales")
    me.expects = ["ERR_INCOMPLETE_CHUNKED_ENCODING .*/v1/chat/completions"]
    say_more(me, ENDLESS)
    ask(me, "Go on and on")
    expect(answers(me).last).to_contain_text("whales")
    me.page.get_by_role("link", name="Activity").click()
    running = me.page.get_by_role("region", name="Running")
    expect(running).to_contain_text("whales")
    expect(running).to_contain_text("Streaming")
    # Cancelled from there, the chat says so.
    me.button("Cancel the request to whales").click()
    me.page.get_by_role("dialog").get_by_role("button", name=re.compile("(End|Cancel) the request")).click()
    expect(running).to_contain_text("nothing at the moment")
    expect(me.page.locator("tbody tr").first).to_contain_text("broken")
    me.page.go_back()
    expect(answers(me).last.get_by_role("alert")).to_be_visible()
    expect(answers(me).last).to_contain_text("whales")


def test_a_model_that_is_not_there(real: Running, visit: Visit) -> None:
    me = visit(real.url, "playground?model=pears")
    me.expects = ["404"]
    ask(me, "Hello?")
    expect(answers(me).last.get_by_role("alert")).to_contain_text("There is no such model")


def test_settings_that_will_not_do(real: Running, visit: Visit) -> None:
    me = visit(real.url, "playground?model=apples")
    me.button("Settings", exact=False).first.click()
    field = me.page.get_by_label("More, as JSON")
    field.fill("{no json")
    expect(field).to_have_attribute("aria-invalid", "true")
    me.page.get_by_label("Temperature").fill("hot")
    expect(me.page.get_by_label("Temperature")).to_have_attribute("aria-invalid", "true")


def test_completion(real: Running, visit: Visit) -> None:
    me = visit(real.url, "playground?model=apples&tab=completion")
    me.page.get_by_role("textbox").first.fill("Once")
    me.page.keyboard.press("Control+Enter")
    expect(me.page.locator("#playground-panel")).to_contain_text(re.compile(r"\d+ tokens"))
    shown = me.page.locator("#playground-panel")
    harvested = shown.evaluate("panel => panel.innerText + [...panel.querySelectorAll('textarea')].map(t => t.value)")
    assert "red apples grow" in harvested


def test_embeddings(real: Running, visit: Visit) -> None:
    me = visit(real.url, "playground?model=embedder&tab=embeddings")
    me.page.get_by_label("First text").fill("the same")
    me.page.get_by_label("Second text").fill("the same")
    me.button("Compare").click()
    result = me.page.get_by_role("region", name="Similarity")
    expect(result).to_contain_text("1.0000")
    expect(result).to_contain_text("64 dimensions")
    me.page.get_by_label("Second text").fill("quite another")
    me.page.keyboard.press("Control+Enter")
    expect(result).not_to_contain_text("1.0000")


def test_rerank(real: Running, visit: Visit) -> None:
    """Its capabilities say that it ranks and does nothing else: the tab is there by itself."""
    me = visit(real.url, "playground?model=ranker")
    me.page.get_by_label("Query").fill("hi")
    me.page.get_by_label("Documents, one per line").fill("first one\n\nsecond\nthird")
    me.button("Rank 3 documents").click()
    expect(me.page.get_by_role("region", name="Ranking").locator("li")).to_have_count(3)
    expect(me.page.get_by_role("tab", name="Chat")).to_have_count(0)
