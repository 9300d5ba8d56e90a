"""`completion`: scripts for bash, zsh and fish, written from the table of commands.

A script knows commands and flags by heart and asks the program itself (`models -q`, `ps -q`) for the names of models,
with a time-out of a second and the `--server` typed so far.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from llamaswap.commands.client import OK

if TYPE_CHECKING:
    from llamaswap.commands.spec import Command, Completes, Flag

NAMES = ("llamaswap", "llamaswap.pyz")
"""What the program is called on people's PATH."""

_DYNAMIC = {"models": "models -q", "loaded": "ps -q", "logs": "models -q"}
"""How the program lists what a value may be."""
LOG_NAMES = ("proxy", "upstream")


def completion(options: argparse.Namespace) -> int:
    from llamaswap.commands.catalogue import COMMANDS, SERVE

    script = {"bash": bash, "zsh": zsh, "fish": fish}[options.SHELL]
    sys.stdout.write(script(tuple(COMMANDS.values()), SERVE))
    return OK


def _flags(command: Command) -> tuple[Flag, ...]:
    from llamaswap.commands.spec import HELP

    return (*command.flags, *command.shared, HELP)


def _words(flags: Iterable[Flag]) -> str:
    return " ".join(name for flag in flags for name in flag.names)


def _takes(flags: Iterable[Flag]) -> list[tuple[str, Completes]]:
    """The flags that take a value, as a shell's case pattern, by what completes it."""
    found: dict[Completes, list[str]] = {}
    for flag in flags:
        if flag.value:
            found.setdefault(flag.completes, []).extend(name for name in flag.names)
    return [("|".join(dict.fromkeys(names)), what) for what, names in found.items()]


# -- bash

_BASH = r"""# bash completion of llamaswap; made by: llamaswap completion bash

_llamaswap_ids() {
    # What the server of this command line lists. "$@" is the command that lists it.
    local i which=()
    for ((i = 1; i < ${#words[@]} - 1; i++)); do
        case ${words[i]} in
            @WHICH_VALUE@) which+=("${words[i]}" "${words[i + 1]}") ;;
            @WHICH_ONE@) which+=("${words[i]}") ;;
        esac
    done
    "${words[0]/#\~/$HOME}" "$@" --timeout 1 "${which[@]}" 2>/dev/null </dev/null
}

_llamaswap_lines() {
    # Not through compgen -W, which would expand what a server answers.
    local id
    while IFS= read -r id; do
        [[ -n $id && $id == "$cur"* ]] && COMPREPLY+=("$(printf %q "$id")")
    done
}

_llamaswap_offer() {
    case $1 in
        files) COMPREPLY=($(compgen -f -- "$cur")); compopt -o filenames 2>/dev/null ;;
        directories) COMPREPLY=($(compgen -d -- "$cur")); compopt -o filenames 2>/dev/null ;;
        models) _llamaswap_lines <<<"$(_llamaswap_ids models -q)" ;;
        loaded) _llamaswap_lines <<<"$(_llamaswap_ids ps -q)" ;;
        logs) COMPREPLY=($(compgen -W "@LOGS@" -- "$cur")); _llamaswap_lines <<<"$(_llamaswap_ids models -q)" ;;
        *) COMPREPLY=($(compgen -W "$1" -- "$cur")) ;;
    esac
}

_llamaswap() {
    # Words as the shell runs them: readline would break them at the colons that ids of models hold.
    local IFS=$' \t\n' words cur previous
    local line=${COMP_LINE:0:COMP_POINT}
    read -ra words <<<"$line"
    cur=
    if [[ $line == *[![:space:]] ]]; then
        cur=${words[${#words[@]} - 1]}
    else
        words+=("")
    fi
    previous=${words[${#words[@]} - 2]}
    COMPREPLY=()
    local command=
    case ${words[1]} in
        @COMMANDS@) ((${#words[@]} > 2)) && command=${words[1]} ;;
    esac
    if [[ $cur == --*=* ]]; then  # --flag=value
        previous=${cur%%=*} cur=${cur#*=}
    fi
    case $command:$previous in
@VALUES@
        *)
            case $command:$cur in
@FLAGS@
@WORDS@
            esac
            ;;
    esac
    # Readline puts back only what follows the last of its own breaks.
    local typed=${cur%"${cur##*[:=]}"} i
    if [[ -n $typed && $COMP_WORDBREAKS == *:* ]]; then
        for i in "${!COMPREPLY[@]}"; do COMPREPLY[i]=${COMPREPLY[i]#"$typed"}; done
    fi
}

complete -F _llamaswap @NAMES@
"""


def bash(commands: tuple[Command, ...], serve: tuple[Flag, ...]) -> str:
    """The script for bash 3.2 and newer."""
    values, flags, words = [], [], []

    def case(pattern: str, what: str, deep: int) -> str:
        return f"{' ' * deep}{pattern}) {what} ;;"

    for command in (None, *commands):
        name = command.name if command else ""
        own = _flags(command) if command else serve
        for pattern, what in _takes(own):
            patterns = "|".join(f"{name}:{flag}" for flag in pattern.split("|"))
            values.append(case(patterns, f"_llamaswap_offer {what}" if what else ":", 8))
        flags.append(case(f"{name}:-*", f'_llamaswap_offer "{_words(own)}"', 16))
        if command is None:
            words.append(case(":*", f'((${{#words[@]}} > 2)) || _llamaswap_offer "{_names(commands)}"', 16))
        for word in command.words if command else ():
            offer = " ".join(word.choices) or word.completes
            words.append(case(f"{name}:*", f'_llamaswap_offer "{offer}"', 16))
    return _filled(
        _BASH,
        commands,
        VALUES="\n".join(values),
        FLAGS="\n".join(flags),
        WORDS="\n".join(words),
        COMMANDS="|".join(command.name for command in commands),
    )


# -- zsh

_ZSH = r"""#compdef @NAMES@
# zsh completion of llamaswap; made by: llamaswap completion zsh

_llamaswap_ids() {
    [[ $PREFIX == -* ]] && return 1
    local -a which ids
    local i
    for ((i = 1; i < ${#line_words}; i++)); do
        case ${line_words[i]} in
            @WHICH_VALUE@) which+=(${line_words[i]} ${(Q)line_words[i + 1]}) ;;
            @WHICH_ONE@) which+=(${(Q)line_words[i]}) ;;
        esac
    done
    ids=(${(f)"$(_call_program models ${(q)${~line_words[1]}} $1 -q --timeout 1 ${(q)which} 2>/dev/null </dev/null)"})
    compadd -- ${@:2} $ids
}
_llamaswap_models() { _llamaswap_ids models }
_llamaswap_loaded() { _llamaswap_ids ps }
_llamaswap_logs() { _llamaswap_ids models @LOGS@ }

_llamaswap() {
    local -a line_words=($words)
    local context state state_descr line
    typeset -A opt_args
    if ((CURRENT > 2)); then
        case $words[2] in
@CASES@
        esac
    fi
    local -a commands=(
@COMMANDS@
    )
    ((CURRENT == 2)) && [[ $words[2] != -* ]] && _describe -t commands command commands && return
    _arguments \
@SERVE@
}

if [[ $funcstack[1] == _llamaswap ]]; then
    _llamaswap "$@"
else
    compdef _llamaswap @NAMES@
fi
"""
_ZSH_ACTIONS = {
    "": " ",
    "files": "_files",
    "directories": "_directories",
    "models": "_llamaswap_models",
    "loaded": "_llamaswap_loaded",
    "logs": "_llamaswap_logs",
}


def _zsh_flags(flags: Iterable[Flag]) -> list[str]:
    specs = []
    for flag in flags:
        value = f":{_zsh_text(flag.value)}:{_ZSH_ACTIONS[flag.completes]}" if flag.value else ""
        again = "*" if flag.repeats else f"({' '.join(flag.names)})" if len(flag.names) > 1 else ""
        for name in flag.names:
            joined = "=" if value and name.startswith("--") else ""
            specs.append(_quoted(f"{again}{name}{joined}[{_zsh_text(_brief(flag.help))}]{value}"))
    return specs


def zsh(commands: tuple[Command, ...], serve: tuple[Flag, ...]) -> str:
    """The script for zsh 5: to be autoloaded as `_llamaswap`, or sourced after compinit."""
    cases = []
    for command in commands:
        specs = _zsh_flags(_flags(command))
        for word in command.words:
            action = f"({' '.join(word.choices)})" if word.choices else _ZSH_ACTIONS[word.completes]
            star = "*" if word.count in ("some", "any") else ""
            specs.append(_quoted(f"{star}:{_zsh_text(word.name)}:{action}"))
        body = " \\\n".join(f"                {spec}" for spec in specs)
        shift = "shift words; ((CURRENT--))"
        cases.append(f"        {command.name})\n            {shift}\n            _arguments -S \\\n{body}\n"
                     "            return ;;")  # fmt: skip
    listed = "\n".join(f"        {_quoted(command.name + ':' + _zsh_text(command.summary))}" for command in commands)
    served = " \\\n".join(f"        {spec}" for spec in _zsh_flags(serve))
    return _filled(_ZSH, commands, CASES="\n".join(cases), COMMANDS=listed, SERVE=served)


def _zsh_text(text: str) -> str:
    return re.sub(r"([\[\]:\\])", r"\\\1", text)


# -- fish

_FISH = r"""# fish completion of llamaswap; made by: llamaswap completion fish

function __llamaswap_ids
    string match -q -- '-*' (commandline -ct); and return
    set -l words (commandline -opc)
    set -l which
    for i in (seq 2 (count $words))
        switch $words[$i]
            case @FISH_VALUE@
                set -a which $words[$i] $words[(math $i + 1)]
            case @FISH_ONE@
                set -a which $words[$i]
        end
    end
    set -l program (string replace -r '^~' $HOME -- $words[1])
    $program $argv --timeout 1 $which 2>/dev/null </dev/null
end

function __llamaswap_command
    # The command typed so far, if it is one.
    set -l words (commandline -opc)
    contains -- "$words[2]" @COMMAND_WORDS@; and echo $words[2]
end

function __llamaswap_is
    test (__llamaswap_command; or echo -) = $argv[1]
end

for program in @NAMES@
@LINES@
end
"""


def fish(commands: tuple[Command, ...], serve: tuple[Flag, ...]) -> str:
    """The script for fish 3."""
    lines = []

    def add(condition: str, *more: str) -> None:
        lines.append(" ".join(["    complete -c $program", f'-n "{condition}"', *more]))

    def flag(condition: str, it: Flag) -> None:
        parts = []
        for name in it.names:
            letter = "-l" if name.startswith("--") else "-s" if len(name) == 2 else "-o"
            parts.append(f"{letter} {name.lstrip('-')}")
        if it.value:
            parts.append("-r -F" if it.completes in ("files", "directories") else "-x")
        if it.completes in _DYNAMIC:
            parts.append(_fish_values(it.completes))
        add(condition, *parts, f"-d {_quoted(_brief(it.help))}")

    nothing = "not __llamaswap_command >/dev/null"
    lines.append("    complete -c $program -f")
    for it in serve:
        flag(nothing, it)
    first = "test (count (commandline -opc)) -eq 1"
    for command in commands:
        add(first, f"-a {command.name} -d {_quoted(command.summary)}")
    for command in commands:
        here = f"__llamaswap_is {command.name}"
        for it in _flags(command):
            flag(here, it)
        for word in command.words:
            if word.completes == "files":
                add(here, "-F")
            elif word.choices:
                add(here, f'-a "{" ".join(word.choices)}"')
            else:
                add(here, _fish_values(word.completes))
    return _filled(_FISH, commands, LINES="\n".join(lines), COMMAND_WORDS=_names(commands))


def _fish_values(what: str) -> str:
    fixed = " ".join(LOG_NAMES) + " " if what == "logs" else ""
    return f'-a "{fixed}(__llamaswap_ids {_DYNAMIC[what]})"'


# -- all of them


def _names(commands: tuple[Command, ...]) -> str:
    return " ".join(command.name for command in commands)


def _brief(text: str) -> str:
    """The beginning of a flag's help, without what stands in brackets."""
    return re.sub(r" \([^()]*\)", "", text).partition(". ")[0].partition("; ")[0]


def _quoted(text: str) -> str:
    """For a shell, in single quotes."""
    return "'" + text.replace("'", "'\\''") + "'"


def _filled(template: str, commands: tuple[Command, ...], **values: str) -> str:
    """The template with every @NAME@ filled in."""
    which = next(command.shared for command in commands if command.shared)
    valued = [name for flag in which if flag.value and flag.names != ("--timeout",) for name in flag.names]
    switches = [name for flag in which if not flag.value for name in flag.names]
    values |= {
        "NAMES": " ".join(NAMES),
        "LOGS": " ".join(LOG_NAMES),
        "WHICH_VALUE": "|".join(valued),
        "WHICH_ONE": "|".join([*switches, *(f"{name}=*" for name in valued)]),
        "FISH_VALUE": " ".join(valued),
        "FISH_ONE": " ".join([*switches, *(f"'{name}=*'" for name in valued)]),
    }
    return re.sub(r"@([A-Z_]+)@", lambda match: values[match[1]], template)
