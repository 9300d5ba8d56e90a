"""The page of the configuration: the file, what was made of it, edits as they take effect, refusals."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import pytest
from conftest import Visit
from harness import Stage
from playwright.sync_api import expect


@pytest.fixture(scope="module")
def watching(pyz: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A server that watches its file."""
    models = {"alpha": {"name": "Alpha"}, "beta": {"env": ["SECRET_TOKEN=very-secret-indeed"]}}
    with harness.stage(pyz, tmp_path_factory.mktemp("config"), models, flags=("--watch-config",)) as stage:
        yield stage


@pytest.fixture
def file(watching: Stage) -> Iterator[Path]:
    """The configuration file; put back afterwards."""
    path = watching.directory / "config.yaml"
    before = path.read_text()
    yield path
    replace(path, before)
    harness.until(lambda: watching.post("/api/config/reload", b"").status == 200, "the file as it was")
    watching.unload()
    watching.forget()


def replace(path: Path, text: str) -> None:
    """At once, as editors do."""
    fresh = path.with_suffix(".fresh")
    fresh.write_text(text)
    fresh.replace(path)


def edited(path: Path, **models: Any) -> str:
    document = json.loads(path.read_text())
    for model, settings in models.items():
        document["models"][model] = {**document["models"].get(model, {}), **settings}
    return json.dumps(document, indent=1)


def test_what_it_shows(watching: Stage, visit: Visit) -> None:
    me = visit(watching.server.url, "config")
    main = me.page.locator("main")
    expect(main).to_contain_text(str(watching.directory / "config.yaml"))
    expect(main.locator(".verdict")).to_have_text("valid")
    file = me.page.get_by_role("region", name="Configuration file")
    expect(file).to_contain_text('"name": "Alpha"')
    expect(file).not_to_contain_text("very-secret-indeed")
    me.page.get_by_role("tab", name="Effective").click()
    expect(me.page).to_have_url(re.compile(r"\?tab=effective$"))
    effective = me.page.get_by_role("region", name="Effective configuration")
    expect(effective).to_contain_text("alpha")
    expect(effective).not_to_contain_text("very-secret-indeed")
    # By keyboard, as tabs go.
    me.page.keyboard.press("ArrowLeft")
    expect(file).to_be_visible()


def test_an_edit_takes_effect(watching: Stage, file: Path, visit: Visit) -> None:
    """The file is saved; page, models and a request under way all do what they should."""
    held = watching.hold("alpha", "held")
    me, models = visit(watching.server.url, "config"), visit(watching.server.url)
    replace(file, edited(file, beta={"name": "Beta the second"}, gamma=json.loads(file.read_text())["models"]["beta"]))
    result = me.page.locator(".result")
    expect(result).to_contain_text("1 added: gamma")
    expect(result).to_contain_text("beta")
    expect(me.page.get_by_role("region", name="Configuration file")).to_contain_text("Beta the second")
    expect(models.row("beta")).to_contain_text("Beta the second")
    expect(models.row("gamma")).to_contain_text("Not loaded")
    expect(models.row("alpha")).to_contain_text("Ready")
    watching.open("held")
    assert held.wait().status == 200


def test_a_bad_file_is_refused(watching: Stage, file: Path, visit: Visit) -> None:
    me = visit(watching.server.url, "config")
    me.expects = [r"status of 400 .*/api/config/reload"]
    good = file.read_text()
    bad = edited(file, beta={"ttl": "ten"}, alpha={"cmdd": "x"})
    replace(file, bad)
    result = me.page.locator(".result")
    expect(result).to_contain_text("The last reload was refused; nothing changed")
    expect(result).to_contain_text("models.beta.ttl")
    expect(result).to_contain_text("must be a number of seconds")
    expect(me.page.locator(".verdict")).to_contain_text("error")
    line = 1 + bad.split("\n").index(next(text for text in bad.split("\n") if '"ttl": "ten"' in text))
    expect(result.get_by_role("button", name=f"line {line}")).to_be_visible()
    # Asked for by hand it is refused as well, and a second mistake shows up in place of the first.
    replace(file, "models: [")
    me.button("Reload now").click()
    expect(result).not_to_contain_text("models.beta.ttl")
    expect(result).to_contain_text("refused")
    assert watching.ask("beta").status == 200
    replace(file, good)
    expect(result).to_contain_text(re.compile("Last reload|Nothing changed"))
    expect(me.page.locator(".verdict")).to_have_text("valid")


def test_reload_by_keyboard_when_nothing_changed(watching: Stage, visit: Visit) -> None:
    me = visit(watching.server.url, "config")
    expect(me.button("Reload now")).to_be_enabled()
    me.page.keyboard.press("r")
    expect(me.toast()).to_contain_text("Reloaded: nothing changed")
