"""From a command's words to its exit status; what goes wrong is one line on standard error."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Sequence

from llamaswap.commands.catalogue import COMMANDS
from llamaswap.commands.client import FAILED, INTERRUPTED, PIPE_BROKEN, CommandError
from llamaswap.commands.spec import Command, command_parser


def is_command(argv: Sequence[str]) -> bool:
    """Whether this command line is a command's, and not the server's."""
    return bool(argv) and argv[0] in COMMANDS


def run(argv: Sequence[str]) -> int:
    """Runs the command that `argv` begins with; returns its exit status. Wrong usage exits with 2."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # as the zipapp starts us
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.stdout is None:
        print("llamaswap: cannot write the output: it is closed", file=sys.stderr)
        return FAILED
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal's encoding has no letters for
    try:
        status = _run(COMMANDS[argv[0]], argv[1:])
        sys.stdout.flush()
        return status
    except CommandError as error:
        print(f"llamaswap: {error}", file=sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:
            _say_no_more()  # that is what the error tells
        return error.status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _say_no_more()
        return PIPE_BROKEN  # whoever read our output has had enough
    except OSError as error:
        _say_no_more()
        what = error if error.filename is not None else f"cannot write the output: {error.strerror or error}"
        print(f"llamaswap: {what}", file=sys.stderr)
        return FAILED


def _say_no_more() -> None:
    """Python's own flush at the exit must not complain again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _run(command: Command, words: Sequence[str]) -> int:
    return command.run(command_parser(command).parse_args(words))
