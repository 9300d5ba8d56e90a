"""The command line: flags in, one running server out; or the name of a command, and what it says."""

from __future__ import annotations

import argparse
import difflib
import errno
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llamaswap import __version__
from llamaswap._build import BUILD_DATE, COMMIT
from llamaswap.commands.catalogue import COMMANDS, DEFAULT_CONFIG, SERVE, WHICH_SERVER
from llamaswap.commands.check import tell
from llamaswap.commands.run import is_command
from llamaswap.commands.run import run as run_command
from llamaswap.commands.spec import Help, examples
from llamaswap.errors import ConfigError

if TYPE_CHECKING:  # imported when needed: --version and --help should not wait for a server
    from llamaswap.config import Place
    from llamaswap.server import Listener

DEFAULT_PORT, DEFAULT_TLS_PORT = 8080, 8443
WHO_S = 1.0  # for asking who holds our port; nobody waits long for an error message
LOOPBACK = ("127.", "::1")


class UsageError(Exception):
    """Something on the command line, or about the place it runs in, that must be put right first."""


_USAGE = """llamaswap [--config FILE] [flags]      run the server
       llamaswap COMMAND [arguments]          ask or steer the one that runs"""

_EXAMPLES = (
    ("--demo", "try it without a model"),
    ("--config config.yaml", "serve on 127.0.0.1:8080"),
    ("check config.yaml", "see what a configuration comes to"),
    ("ps", "see what is loaded"),
    ("logs -f qwen", "read along"),
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the server's flags; its help lists the commands as well."""
    width = max(map(len, COMMANDS))
    listed = [f"  {command.name:<{width}}  {command.summary}" for command in COMMANDS.values()]
    parser = argparse.ArgumentParser(
        prog="llamaswap",
        usage=_USAGE,
        description="\n".join(
            [
                "One address in front of your local inference servers: starts the right one for each request.",
                "",
                "commands (llamaswap COMMAND --help says more):",
                *listed,
            ]
        ),
        epilog=examples("", _EXAMPLES),
        formatter_class=Help,
        allow_abbrev=False,
        add_help=False,  # its own one takes -help for -h
    )
    group = parser.add_argument_group("flags of the server")
    for flag in SERVE:
        both = (flag.names[0], flag.names[0][1:])
        if flag.names == ("--help",):
            group.add_argument(*both, "-h", action="help", help=flag.help)
        elif flag.value:
            group.add_argument(*both, metavar=flag.value, help=flag.help)
        else:
            group.add_argument(*both, nargs="?", const=True, default=False, type=_switch, help=flag.help)
    return parser


def _switch(text: str) -> bool:
    if text.lower() in ("1", "t", "true"):
        return True
    if text.lower() in ("0", "f", "false"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def _check_words(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Say it better than argparse when a command is misspelt, or comes after its flags."""
    if argv and not argv[0].startswith("-"):
        close = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"commands are: {', '.join(COMMANDS)}"
        parser.error(f"no command {argv[0]!r}; {hint}")
    asked = [flag.names[-1] for flag in WHICH_SERVER]
    if argv and argv[0].partition("=")[0] in asked:
        parser.error(f"{argv[0]} belongs to a command and follows it, as in: llamaswap ps {argv[0]} ...")


def version_line() -> str:
    """`version: V (C), built at D`, as llama-swap prints it."""
    return f"version: {__version__} ({COMMIT}), built at {BUILD_DATE}"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status. Errors are lines on stderr, never a traceback."""
    argv = sys.argv[1:] if argv is None else argv
    if is_command(argv):
        return run_command(argv)
    parser = build_parser()
    _check_words(parser, argv)
    options = parser.parse_args(argv)
    if options.version:
        print(version_line())
        return 0
    try:
        return run(options)
    except ConfigError as error:
        tell(error)
    except UsageError as error:
        print(f"llamaswap: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130  # before the server took signals over
    return 1


def run(options: argparse.Namespace) -> int:
    """Load, bind, serve. Raises ConfigError and UsageError."""
    import logging

    from llamaswap import config as configuration
    from llamaswap.observe.logs import Logs, setup_logging

    if options.demo:
        from llamaswap.demo import DEMO_CONFIG, demo_hint

        place = None
        sources: tuple[configuration.Source, ...] = (configuration.Source("--demo", DEMO_CONFIG()),)
    else:
        place = config_place(options.config, options.config_dir)
        sources = tuple(place.read())
    config = configuration.load_sources(sources)

    import trio

    from llamaswap.reload import Origin
    from llamaswap.server import serve

    listener = listen(options)
    logs = Logs(to_stdout=config.log_to_stdout)
    setup_logging(config, logs)
    log = logging.getLogger("llamaswap")
    for problem in config.warnings:
        log.warning("%s", problem)
    if options.demo:
        print(demo_hint(listener.url), flush=True)
    return trio.run(serve, config, logs, listener, Origin(place, sources, options.watch_config))


def config_place(file: str | None, directory: str | None) -> Place:
    """What --config and --config-dir say. Raises UsageError if there is nothing to read."""
    from llamaswap.config import Place

    if directory is None:
        return Place(config_path(file))
    path = Path(directory)
    if not path.is_dir():
        what = "is a file; name it with --config" if path.exists() else "no such directory"
        raise UsageError(f"--config-dir {path}: {what}")
    return Place(None if file is None else config_path(file), path)


def config_path(given: str | None) -> Path:
    """The configuration file. Raises UsageError if there is none to read."""
    path = Path(given or DEFAULT_CONFIG)
    if path.is_dir():
        raise UsageError(f"--config {path}: is a directory; name the file in it")
    if not path.exists():
        hint = "" if given else "; name one with --config FILE, or try --demo"
        raise UsageError(f"configuration file {path} does not exist{hint}")
    return path


def listen(options: argparse.Namespace) -> Listener:
    """Bind what --listen and the TLS flags say. Raises UsageError."""
    from llamaswap.server import Listener, tls_context
    from llamaswap.web.front import bind, parse_listen

    certificate, key = options.tls_cert_file, options.tls_key_file
    if bool(certificate) != bool(key):
        missing = "--tls-key-file" if certificate else "--tls-cert-file"
        raise UsageError(f"TLS needs both --tls-cert-file and --tls-key-file; {missing} is missing")
    default_port = DEFAULT_TLS_PORT if certificate else DEFAULT_PORT
    try:
        host, port = parse_listen(options.listen or f"127.0.0.1:{default_port}", default_port)
    except ValueError as error:
        raise UsageError(str(error)) from error
    context = None
    if certificate:
        for name, file in (("--tls-cert-file", certificate), ("--tls-key-file", key)):
            if not Path(file).is_file():
                raise UsageError(f"{name} {file}: no such file")
        try:
            context = tls_context(Path(certificate), Path(key))
        except OSError as error:
            raise UsageError(f"cannot use {certificate} with {key}: {error.strerror or error}") from error
    try:
        sockets = bind(host, port)
    except socket.gaierror as error:
        raise UsageError(f"--listen {options.listen}: no such host {host!r}: {error.strerror}") from error
    except UnicodeError as error:
        raise UsageError(f"--listen {options.listen}: {host!r} is no host name") from error
    except OSError as error:
        hint = ""
        if error.errno == errno.EADDRINUSE:
            hint = f"; {_who_listens(host or 'localhost', port)} listens there (choose another with --listen)"
        raise UsageError(f"cannot listen on {host or '*'}:{port}: {error.strerror}{hint}") from error
    port = sockets[0].getsockname()[1]
    shown = f"[{host}]" if ":" in host else host or "localhost"
    public = not (host == "localhost" or host.startswith(LOOPBACK))
    return Listener(sockets, context, f"{'https' if context else 'http'}://{shown}:{port}", public)


def _who_listens(host: str, port: int) -> str:
    """Most often it is ourselves, forgotten in another terminal."""
    import httpx

    try:
        with httpx.Client(trust_env=False, timeout=WHO_S) as client:
            answer = client.get(httpx.URL(scheme="http", host=host, port=port, path="/api/version"))
            return f"another llamaswap ({answer.json()['version']})"
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError):
        return "another program"


if __name__ == "__main__":
    sys.exit(main())
