"""The page and its server: lost and back, other keys, other models than before."""

from __future__ import annotations

import re
from pathlib import Path

import harness
from conftest import Visit
from playwright.sync_api import expect

REFUSED = r"ERR_CONNECTION_REFUSED|ERR_CONNECTION_RESET|ERR_INCOMPLETE_CHUNKED_ENCODING|ERR_EMPTY_RESPONSE|ERR_SOCKET"
KEY = "a-key-with-ümlauts"


def test_the_server_goes_and_comes_back(pyz: Path, tmp_path: Path, visit: Visit) -> None:
    with harness.stage(pyz, tmp_path, {"alpha": {}, "beta": {}}) as stage:
        me, reader = visit(stage.server.url), visit(stage.server.url, "logs")
        me.expects = reader.expects = [REFUSED]
        stage.ask("alpha")
        expect(me.row("alpha")).to_contain_text("Ready")
        held = stage.hold("alpha", "held")
        expect(me.page).to_have_title("▶ 1 · Models · llamaswap")

        stage.note_family()
        stage.process.kill()
        stage.process.wait()
        banner = me.page.locator("main [role=status]", has_text="Not connected")
        expect(banner).to_contain_text("What you see may be out of date")
        expect(me.page).to_have_title("⚠ offline · Models · llamaswap")
        expect(me.page.locator("header .status")).to_contain_text("Not connected")
        me.button("Load beta").click()
        expect(me.toast()).to_contain_text("Could not load beta")
        me.button("Dismiss").first.click()
        assert not held.wait().complete

        me.button("Try now", exact=False).click()
        expect(banner).to_be_visible()
        harness.until(lambda: not stage.processes(), "the guardian has ended the models")
        stage.restart(pyz)
        me.page.evaluate("dispatchEvent(new Event('online'))")  # it need not wait until its turn comes
        expect(banner).to_have_count(0)
        expect(me.page).to_have_title("Models · llamaswap")
        expect(me.row("alpha")).to_contain_text("Not loaded")
        # Everything works as before, in the window that nobody touched as well: it reconnects by itself.
        me.button("Load beta").click()
        expect(me.row("beta")).to_contain_text("Ready")
        log = reader.page.get_by_role("region", name="Log of proxy")
        expect(log).to_contain_text(re.compile(r"beta"))
        expect(reader.page).to_have_title("Logs · llamaswap")


def test_wrong_key_then_the_right_one(pyz: Path, tmp_path: Path, visit: Visit) -> None:
    with harness.stage(pyz, tmp_path, {"alpha": {}}, apiKeys=[KEY]) as stage:
        me = visit(stage.server.url)
        me.expects = ["401"]
        dialog = me.page.get_by_role("dialog", name="API key")
        field = dialog.get_by_label("Key", exact=True)
        expect(field).to_be_focused()
        me.page.keyboard.press("Escape")
        expect(dialog).to_be_visible()
        expect(me.page).to_have_title("⚠ key wanted · Models · llamaswap")
        field.fill("wrong")
        me.page.keyboard.press("Enter")
        expect(dialog.get_by_role("alert")).to_have_text("The server does not accept this key.")
        assert me.axe() == []
        field.fill(f" {KEY} ")
        dialog.get_by_role("button", name="Continue").click()
        expect(dialog).to_have_count(0)
        expect(me.row("alpha")).to_contain_text("Not loaded")
        expect(me.page).to_have_title("Models · llamaswap")
        me.button("Load alpha").click()
        expect(me.row("alpha")).to_contain_text("Ready")
        # The key lasts as long as the tab, and goes into no address.
        me.page.reload()
        expect(me.row("alpha")).to_contain_text("Ready")
        expect(dialog).to_have_count(0)
        assert not [url for url in me.requests if "key" in url.lower().replace("keydialog", "")]
        stranger = visit(stage.server.url)
        stranger.expects = ["401"]
        expect(stranger.page.get_by_role("dialog", name="API key")).to_be_visible()
