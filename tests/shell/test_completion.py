"""The completion scripts, in the shells themselves: what Tab offers for a line typed so far."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from llamaswap.commands.catalogue import COMMANDS, SERVE
from llamaswap.commands.completion import bash, fish, zsh

RUN_S = 60
TRAP = "$(touch trapped)"
STUB = f"""#!/bin/sh
echo "$*" >> asked
case $1 in
    ps) echo qwen ;;
    models) printf '%s\\n' qwen org/c:q4 org/c:q8 '{TRAP}' ;;
esac
"""
SCRIPTS = {"bash": bash, "zsh": zsh, "fish": fish}

_BASH = r"""
source ./script
COMP_LINE=$1 COMP_POINT=${#1} COMPREPLY=()
_llamaswap
printf '%s\n' "${COMPREPLY[@]}"
"""
_FISH = "source ./script; complete -C $argv[1] | string replace -r '\t.*' ''"
# An interactive shell on a terminal of its own, whose compadd says what it is given.
_ZSH = r"""
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'PS1=; autoload -Uz compinit; compinit -u -D; source ./script; bindkey "^I" complete-word
compadd() {
    if [[ "$*" != *-(O|A|D)* ]]; then
        local -a found
        builtin compadd -O found "$@"
        ((#found)) && print -r -- "<<${(pj:\n:)found}>>"
    fi
    builtin compadd "$@"
}
print READY'
zpty -r shell out '*READY*READY*'
zpty -n -w shell "$1"$'\t'
zpty -r shell out '*<<*>>*'
out=${out##*<<}
print -r -- "${out%%>>*}"
zpty -d shell
"""
RUNNERS = {
    "bash": ["bash", "--norc", "-c", _BASH, "bash"],
    "fish": ["fish", "--no-config", "-c", _FISH],
    "zsh": ["zsh", "-f", "-c", _ZSH, "zsh"],
}

Tab = Callable[[str], list[str]]


@pytest.fixture(params=SCRIPTS)
def tab(request: pytest.FixtureRequest, tmp_path: Path) -> Tab:
    """What the shell offers at the end of a line, sorted, in a directory that holds one.yaml and sub/."""
    shell = request.param
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "llamaswap").write_text(STUB)
    (tmp_path / "bin" / "llamaswap").chmod(0o755)
    (tmp_path / "sub").mkdir()
    (tmp_path / "one.yaml").touch()
    (tmp_path / "script").write_text(SCRIPTS[shell](tuple(COMMANDS.values()), SERVE))
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "HOME": str(tmp_path)}

    def press(line: str) -> list[str]:
        done = subprocess.run(
            [*RUNNERS[shell], line],
            capture_output=True, text=True, timeout=RUN_S, cwd=tmp_path, env=environment, check=False,
        )  # fmt: skip
        assert done.stderr == "", done
        return sorted(line.strip() for line in done.stdout.splitlines() if line.strip())

    return press


def test_commands(tab: Tab) -> None:
    assert tab("llamaswap ") == sorted(COMMANDS)
    assert tab("llamaswap com") == ["completion"]
    assert tab("llamaswap completion ") == ["bash", "fish", "zsh"]


def test_flags(tab: Tab, tmp_path: Path) -> None:
    assert tab("llamaswap --listen :1 --dem") == ["--demo"]
    assert tab("llamaswap activity --mo") == ["--model"]
    assert tab("llamaswap load --no") == ["--no-wait"]
    assert tab("llamaswap --config on") == ["one.yaml"]
    assert tab("llamaswap check on") == ["one.yaml"]
    assert not (tmp_path / "asked").exists()


def test_models(tab: Tab, tmp_path: Path) -> None:
    bare = [name.removeprefix("org/c:") for name in tab("llamaswap load org/c:q")]
    assert bare == ["q4", "q8"]  # bash is given what follows its own word break
    assert tab("llamaswap activity --model q") == ["qwen"]
    assert tab("llamaswap logs p") == ["proxy"]
    assert tab("llamaswap unload --server http://box:1 --insecure q") == ["qwen"]
    assert tab("llamaswap unload --server=http://box:2 q") == ["qwen"]
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == [
        "models -q --timeout 1",
        "models -q --timeout 1",
        "models -q --timeout 1",
        "ps -q --timeout 1 --server http://box:1 --insecure",
        "ps -q --timeout 1 --server=http://box:2",
    ]


def test_what_a_server_answers_is_not_run(tab: Tab, tmp_path: Path) -> None:
    assert len(tab("llamaswap load ")) == 4
    assert tab("llamaswap load q") == ["qwen"]
    assert not (tmp_path / "trapped").exists()


def test_whatever_can_be_typed_is_in_every_script() -> None:
    for make in SCRIPTS.values():
        script = make(tuple(COMMANDS.values()), SERVE)
        assert "@" not in script.replace("$@", "").replace("[@]", "").replace("{@:", "")
        for command in COMMANDS.values():
            assert command.name in script
            for flag in (*SERVE, *command.flags, *command.shared):
                long = flag.names[-1]
                assert long in script or f"-l {long[2:]}" in script
