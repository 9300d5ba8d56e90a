"""Commands: comments, continued lines, quotes."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaswap.config import loads
from llamaswap.config.command import split_command, strip_comments
from llamaswap.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "argv"),
    [
        ("", ()),
        ("  \n \n", ()),
        ("# nothing\n   # here", ()),
        ("a b  c\td", ("a", "b", "c", "d")),
        ("a\n  b\nc", ("a", "b", "c")),
        ("a \\\n  b \\\n  c", ("a", "b", "c")),
        ("a\\\nb", ("a", "b")),
        ("a \\  \n b", ("a", "b")),
        ("a \\\n# comment\n b", ("a", "b")),
        ("a\n# b\n  # c\nd", ("a", "d")),
        ("a #b c", ("a", "#b", "c")),
        ("a --x=#1", ("a", "--x=#1")),
        ("a b \\", ("a", "b")),
        ("a b \\\n", ("a", "b")),
        ("a 'b c' \"d e\"", ("a", "b c", "d e")),
        ("a 'b'\"c\"d", ("a", "bcd")),
        ("a ''", ("a", "")),
        ("a \\'b\\'", ("a", "'b'")),
        ('a "\\"q\\" \\\\ \\n $HOME"', ("a", '"q" \\ \\n $HOME')),
        ("a 'x\\y'", ("a", "x\\y")),
        ("a \\\\\nb", ("a", "\\", "b")),
        ("a 'b\nc'", ("a", "b\nc")),
        ("sh -c 'echo \"hi\"; exit 3'", ("sh", "-c", 'echo "hi"; exit 3')),
        ('x --json \'{"a": [1, "b"]}\'', ("x", "--json", '{"a": [1, "b"]}')),
        ("größe --n 🦙", ("größe", "--n", "🦙")),
        ("a | b > c & $(d) ~ *", ("a", "|", "b", ">", "c", "&", "$(d)", "~", "*")),
    ],
)
def test_splitting(text: str, argv: tuple[str, ...]) -> None:
    assert split_command(text) == argv


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("a 'b", "unbalanced quote (' opened before 'b')"),
        ('a "b c', "unbalanced quote (\" opened before 'b c')"),
        ("a it's", "unbalanced quote (' opened before 's')"),
        ("a 'b' \"c", "unbalanced quote (\" opened before 'c')"),
        ("a b\0c", "null character"),
    ],
)
def test_what_cannot_be_split_is_explained(text: str, phrase: str) -> None:
    with pytest.raises(ValueError) as caught:
        split_command(text)
    assert phrase in str(caught.value)


@pytest.mark.parametrize("key", ["cmd", "cmdStop"])
def test_an_unbalanced_quote_is_a_problem_of_the_file(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(f"models:\n  m:\n    proxy: http://h\n    {key}: server 'x\n", environ={})
    [problem] = caught.value.problems
    assert (problem.line, problem.key) == (4, f"models.m.{key}")
    assert "unbalanced quote" in problem.message


def test_comments_leave_the_rest_as_it_is() -> None:
    assert strip_comments("a\n  # b\n c # d\n") == "a\n c # d\n"


@given(st.lists(st.text(st.characters(exclude_characters="\0"), max_size=8), max_size=6))
def test_what_the_shell_would_quote_comes_back(argv: list[str]) -> None:
    line = " ".join(["x", *map(shlex.quote, argv)])
    if any(part.lstrip().startswith("#") for part in line.split("\n")) or "\\\n" in line or "\\ " in line:
        return  # comments and continued lines go first, inside quotes too
    if any(a.endswith("\\") or "\\\t" in a for a in argv):
        return
    assert split_command(line) == ("x", *argv)


@given(st.text(max_size=40))
def test_any_text_splits_or_is_explained(text: str) -> None:
    try:
        split_command(text)
    except ValueError as error:
        assert len(str(error)) > 20
