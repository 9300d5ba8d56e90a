"""Several files, one configuration: what is read, how it merges, and that every problem names its own file and line."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from llamaswap.config import Config, Place, Source, load_sources
from llamaswap.config.load import loads
from llamaswap.errors import ConfigError


def load(*texts: str, **kwargs: Any) -> Config:
    sources = [Source(f"{chr(ord('a') + i)}.yaml", dedent(text)) for i, text in enumerate(texts)]
    return load_sources(sources, environ={"KEY": "sesame"}, **kwargs)


def problems(*texts: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(*texts)
    return [str(problem) for problem in caught.value.problems]


def test_maps_merge_lists_follow_each_other_and_equal_values_may_be_said_twice() -> None:
    config = load(
        "startPort: 7000\nlogLevel: warn\napiKeys: [one]\nmacros: {b: server}\nmodels: {a: {cmd: '${b} ${PORT}'}}\n",
        "startPort: 7000\napiKeys: [two, '${env.KEY}']\nmodels: {b: {cmd: '${b} ${flags} ${PORT}'}}\n",
        "macros: {flags: -x}\nhooks: {on_startup: {preload: [b]}}\n",
    )
    assert config.start_port == 7000 and config.log_level == "warn"
    assert config.api_keys == ("one", "two", "sesame")
    assert [m.cmd for m in config.models.values()] == ["server 7000", "server -x 7001"]
    assert config.preload == ("b",)


def test_one_file_alone_is_read_as_ever() -> None:
    text = "models: {a: {cmd: 'x ${PORT}'}}\n"
    assert load(text) == loads(text, environ={})


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("logLevel: info", "logLevel: warn", "logLevel"),
        ("startPort: 1000", "startPort: '1000'", "startPort"),
        ("sendLoadingState: true", "sendLoadingState: 1", "sendLoadingState"),
        ("apiKeys: [a]", "apiKeys: a", "apiKeys"),
        ("models: {m: {cmd: x}}", "models: [m]", "models"),
        ("routing: {scheduler: {use: fifo}}", "routing: {scheduler: {use: lifo}}", "routing.scheduler.use"),
        ("upstream: {ignorePaths: [a]}", "upstream: {ignorePaths: {b: c}}", "upstream.ignorePaths"),
    ],
)
def test_what_two_files_say_differently_is_a_conflict(old: str, new: str, key: str) -> None:
    line = f'conflict at "{key}": b.yaml sets a different value than a previous source'
    assert f"b.yaml:2: {key}: {line}" in problems(old, f"\n{new}")


@pytest.mark.parametrize("section", ["models", "groups", "profiles", "selectors", "peers", "matrix"])
def test_what_has_an_id_belongs_to_one_file(section: str) -> None:
    text = f"\n{section}:\n  x: {{}}\n"
    line = f'duplicate {section} "x" found in b.yaml (already defined in another config source): a.yaml:3'
    assert f"b.yaml:4: {section}.x: {line}" in problems(text, "\n" + text)


def test_a_key_with_nothing_in_it_says_nothing() -> None:
    config = load(
        "models:\napiKeys: [k]\nlogLevel: warn", "models: {a: {cmd: '${PORT}'}}\napiKeys:\nlogLevel:", "# empty\n", ""
    )
    assert list(config.models) == ["a"] and config.api_keys == ("k",) and config.log_level == "warn"


@pytest.mark.parametrize(("old", "new"), [("globalTTL: 5", "globalTTL: 5.0"), ("logLevel: info", "logLevel: 'info'")])
def test_the_same_value_written_differently_is_the_same(old: str, new: str) -> None:
    assert load(old, new) == load(old)


def test_all_problems_at_once_each_with_its_file_and_line() -> None:
    assert problems(
        "models:\n  a:\n    ttl: ten\n    cmd: ${PORT}\n",
        "# two\nmodels:\n  b:\n    cmd: '${PORT} ${nothing}'\n",
        "models:\n  c:\n    cmd: |\n      server\n      # ${env.NOT_HERE}\n      --x ${PORT} ${other}\n",
        "apiKeys:\n  - ''\n  - ${env.MISSING}\n",
    ) == [
        "a.yaml:3: models.a.ttl: must be a number of seconds, got the text 'ten'",
        "b.yaml:4: models.b.cmd: unknown macro '${nothing}' found in b.cmd; declare it under macros",
        "c.yaml:6: models.c.cmd: unknown macro '${other}' found in c.cmd; declare it under macros",
        "d.yaml:2: apiKeys[0]: empty api key found in apiKeys; write a key, or remove the line",
        "d.yaml:3: apiKeys[1]: environment variable 'MISSING' is not set; "
        "set it before starting, or remove ${env.MISSING}",
    ]


def test_warnings_too() -> None:
    config = load("models: {a: {cmd: '${PORT}'}}\n", "\nmodels:\n  b:\n    cmd: ${PORT}\n    tttl: 4\n---\nx: y\n")
    assert [str(warning) for warning in config.warnings] == [
        "b.yaml:5: models.b.tttl: unknown key 'tttl' is ignored; did you mean 'ttl'?",
        "b.yaml:6: only the first YAML document of the file is read; the rest is ignored",
    ]


def test_syntax_errors_of_every_file() -> None:
    found = problems("models: [\n", "a: 1\n\tb: 2\n", "x: 1\nx: 2\n", "# d\nlist:\n  - a\n - b\n", "- a\n")
    assert [text.split(" ")[0] for text in found] == ["a.yaml:2:", "b.yaml:2:", "c.yaml:2:", "d.yaml:4:"]
    assert found[2] == "c.yaml:2: x: key 'x' is given twice, on c.yaml:1 and c.yaml:2; keep one"
    assert "began on line 2" in found[3]
    assert problems("a: 1\n", "\n- a\n") == ["b.yaml:2: must be a mapping of keys such as models, got a list"]


def test_a_macro_that_makes_two_keys_one_names_both_places() -> None:
    model = "\nmodels:\n  m:\n    cmd: ${PORT}\n    metadata:\n      same: 1\n      ${k}: 2\n"
    found = problems("macros: {k: same}\n", model)
    assert found == ["b.yaml:7: models.m.metadata.same: two keys become 'same', on b.yaml:6 and b.yaml:7; keep one"]


# -- what is read


def write(directory: Path, **files: str) -> Path:
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)
    return directory


def test_the_file_first_then_the_directory_by_name(tmp_path: Path) -> None:
    directory = write(tmp_path / "conf.d", b__yaml="b: 1", a__yml="", c__yaml="c: 1", note__txt="", d__YAML="", yaml="")
    (directory / ".#b.yaml").symlink_to("nobody@nowhere")  # an editor's lock
    (directory / ".hidden.yaml").write_text("bad: [")
    (directory / "sub.yaml").mkdir()
    write(directory / "sub.yaml", x__yaml="")
    (directory / "z.yaml").symlink_to("c.yaml")
    file = tmp_path / "config.yaml"
    file.write_text("first: 1")
    both = Place(file, directory)
    assert both.files() == [file, *(directory / name for name in ("a.yml", "b.yaml", "c.yaml", "z.yaml"))]
    assert both.read()[2] == Source(str(directory / "b.yaml"), "b: 1")
    assert Place(file).files() == [file]
    assert Place(None, directory).files() == both.files()[1:]


def refusal(place: Place) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        place.read()
    return [str(problem) for problem in caught.value.problems]


def test_a_file_inside_the_directory_would_be_read_twice(tmp_path: Path) -> None:
    directory = write(tmp_path / "conf.d", config__yaml="")
    (tmp_path / "link").symlink_to(directory)
    file = tmp_path / "link" / "config.yaml"
    text = f"--config {file} is inside --config-dir {directory}: leave one of the two away"
    assert refusal(Place(file, directory)) == [text]


def test_nothing_to_read(tmp_path: Path) -> None:
    empty = write(tmp_path / "conf.d", readme__md="")
    assert refusal(Place(None, empty)) == [f"{empty}: no configuration in it; name the files *.yaml or *.yml"]
    (tmp_path / "config.yaml").write_text("")
    assert Place(tmp_path / "config.yaml", empty).read() == [Source(str(tmp_path / "config.yaml"), "")]
    gone = tmp_path / "gone"
    reason = "cannot read the directory of configurations: no such file or directory"
    assert refusal(Place(None, gone)) == [f"{gone}: {reason}"]


def test_every_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    directory = write(tmp_path / "conf.d", b__yaml="")
    (directory / "a.yaml").symlink_to("nowhere")
    (directory / "c.yaml").write_bytes(b"a: 1\nb: \xff\n")
    assert refusal(Place(None, directory)) == [
        f"{directory / 'a.yaml'}: cannot read the configuration: no such file or directory",
        f"{directory / 'c.yaml'}:2: not valid UTF-8; save the file as UTF-8",
    ]
