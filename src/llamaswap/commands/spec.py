"""What a command line may hold, as data: the parser, the help and the completions are all made of it."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

PROG = "llamaswap"

Completes = Literal["", "files", "directories", "models", "loaded", "logs"]
"""What a shell should offer for a value: files, ids of models (all, or those that are loaded), names of logs."""


@dataclass(frozen=True, slots=True)
class Flag:
    """`names` with their dashes, the long one last. Without `value` it is a switch."""

    names: tuple[str, ...]
    help: str
    value: str = ""
    """What the help calls its value."""
    completes: Completes = ""
    kind: Callable[[str], Any] = str
    """Text to value; raises argparse.ArgumentTypeError saying what would be right."""
    default: Any = None
    repeats: bool = False
    """May be given several times; the values make a list."""


@dataclass(frozen=True, slots=True)
class Word:
    """An argument without dashes."""

    name: str
    help: str
    count: Literal["one", "maybe", "some", "any"] = "one"
    """one; zero or one; one or more; zero or more."""
    completes: Completes = ""
    choices: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """As in a usage line."""
        name = "|".join(self.choices) or self.name
        return {"one": name, "maybe": f"[{name}]", "some": f"{name}...", "any": f"[{name}...]"}[self.count]


@dataclass(frozen=True, slots=True)
class Command:
    name: str
    summary: str
    """One line for the list of commands."""
    run: Callable[[argparse.Namespace], int]
    """Returns the exit status. Raises `client.CommandError` for what the user must know."""
    text: str = ""
    """What its help says beyond the summary."""
    examples: tuple[tuple[str, str], ...] = ()
    """(arguments, what they do)."""
    flags: tuple[Flag, ...] = ()
    words: tuple[Word, ...] = ()
    asks: bool = False
    """Whether it asks a running server, and so takes the flags that say which."""
    shared: tuple[Flag, ...] = field(default=(), repr=False)
    """The flags that say which; set by the table."""


HELP = Flag(("-h", "--help"), "print this and exit")


class Help(argparse.RawDescriptionHelpFormatter):
    """Flags as people type them: `-n, --lines N`, and of a Go flag's two forms only `--config FILE`."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        names = [name for name in action.option_strings if name.startswith("--") or len(name) == 2]
        if not names:
            return super()._format_action_invocation(action)
        value = f" {action.metavar}" if action.metavar and action.nargs != "?" else ""
        return ", ".join(sorted(names, key=len)) + value


_NARGS = {"one": None, "maybe": "?", "some": "+", "any": "*"}


def command_parser(command: Command) -> argparse.ArgumentParser:
    """The parser of one command's own arguments. A mistake ends the process with status 2, as argparse does."""
    words = " ".join(word.shown for word in command.words)
    parser = argparse.ArgumentParser(
        prog=f"{PROG} {command.name}",
        usage=f"{PROG} {command.name} [flags]{words and ' ' + words}",
        description=textwrap.fill(command.summary[0].upper() + command.summary[1:] + ".", 79)
        + (f"\n\n{command.text}" if command.text else ""),
        epilog=examples(command.name, command.examples),
        formatter_class=Help,
        allow_abbrev=False,
        add_help=False,
    )
    for word in command.words:
        more = {"choices": word.choices} if word.choices else {}
        parser.add_argument(word.name, metavar=word.name, nargs=_NARGS[word.count], help=word.help, **more)  # type: ignore[arg-type]
    own = parser.add_argument_group("flags")
    add_flags(own, command.flags)
    own.add_argument("-h", "--help", action="help", help="print this and exit")
    if command.shared:
        add_flags(parser.add_argument_group("which server"), command.shared)
    return parser


def add_flags(parser: argparse._ActionsContainer, flags: Sequence[Flag]) -> None:
    for flag in flags:
        if not flag.value:
            parser.add_argument(*flag.names, action="store_true", help=flag.help)
        else:
            action = "append" if flag.repeats else "store"
            parser.add_argument(
                *flag.names, action=action, metavar=flag.value, type=flag.kind, default=flag.default, help=flag.help
            )


def examples(command: str, lines: Sequence[tuple[str, str]]) -> str:
    """A block of examples, the explanations aligned."""
    if not lines:
        return ""
    typed = [" ".join(part for part in (PROG, command, arguments) if part) for arguments, _ in lines]
    width = max(map(len, typed))
    told = [f"  {text:<{width}}  {why}".rstrip() for text, (_, why) in zip(typed, lines, strict=True)]
    return "\n".join(["examples:", *told])


def number(least: int, most: int) -> Callable[[str], int]:
    """The kind of a flag that takes a whole number in this range."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return read
