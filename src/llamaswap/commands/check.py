"""`check` and `schema`: a configuration without a server."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llamaswap.commands.client import FAILED, OK, USAGE, CommandError
from llamaswap.commands.terminal import Column, Screen, duration, screen, table
from llamaswap.errors import ConfigError, Problem

if TYPE_CHECKING:
    from llamaswap.config import Config, ModelConfig

_COLUMNS = (
    Column("MODEL"),
    Column("PORT", right=True),
    Column("GROUP"),
    Column("TTL", right=True),
    Column("ALIASES", gives_way=True),
    Column("COMMAND", wraps=True),
)


def check(options: argparse.Namespace) -> int:
    """Reads the configuration as the server would; says what would run, or all that is wrong."""
    shown, read = _source(options)
    try:
        config = read()
        if config.store_path:
            from llamaswap.observe.store_file import examine

            examine(config.store_path)
    except ConfigError as error:
        if options.json:
            _write({"file": shown, "ok": False, "models": [], **_findings(error.problems, error.warnings)})
        else:
            tell(error, prefix="")
        return FAILED
    if options.json:
        models = [_record(config, model) for model in config.models.values()]
        _write({"file": shown, "ok": True, "models": models, **_findings((), config.warnings)})
        return OK
    on, told_on = screen(), screen(sys.stderr)
    for problem in config.warnings:
        print(f"{problem}{told_on.paint(' (a warning)', 'yellow')}", file=sys.stderr)
    if config.models:
        sys.stdout.write(table(_COLUMNS, [_row(config, model) for model in config.models.values()], on))
    print(_verdict(shown, config, on))
    return OK


def schema(options: argparse.Namespace) -> int:
    """The JSON schema of a configuration file, for editors."""
    from llamaswap.config.schema import render

    sys.stdout.write(render())
    return OK


def tell(error: ConfigError, prefix: str = "llamaswap: ") -> None:
    """Every finding on standard error, in the order of the file, and how many errors there are."""
    on = screen(sys.stderr)
    told = [(problem.file, problem.line or 0, f"{problem}", False) for problem in error.problems]
    told += [(warning.file, warning.line or 0, f"{warning}", True) for warning in error.warnings]
    for _, _, text, is_warning in sorted(told):
        print(f"{prefix}{text}{on.paint(' (a warning)', 'yellow') if is_warning else ''}", file=sys.stderr)
    count = len(error.problems)
    counted = on.paint(f"{count} problem{'s' if count > 1 else ''}", "red")
    print(f"{prefix}{counted} in the configuration", file=sys.stderr)


def _source(options: argparse.Namespace) -> tuple[str, Callable[[], Config]]:
    """What to check, and how to read it."""
    from pathlib import Path

    from llamaswap import config as configuration
    from llamaswap.commands.catalogue import DEFAULT_CONFIG

    file = options.CONFIG
    if file is None and options.config_dir is None:
        file = DEFAULT_CONFIG
        if not Path(file).exists():
            raise CommandError(f"name the configuration to check; there is no {file} here", USAGE)
    if file is not None and Path(file).is_dir():
        raise CommandError(f"{file} is a directory; check the files in it with --config-dir {file}", USAGE)
    place = configuration.Place(
        Path(file) if file is not None else None, Path(options.config_dir) if options.config_dir is not None else None
    )
    shown = " and ".join(part for part in (file, options.config_dir) if part is not None)
    return shown, lambda: configuration.load_sources(place.read())


def _verdict(shown: str, config: Config, on: Screen) -> str:
    counts = [_count(len(config.models), "model")]
    if config.groups:
        counts.append(_count(len(config.groups), "group"))
    if config.warnings:
        counts.append(_count(len(config.warnings), "warning"))
    return f"{shown}: {on.paint('valid', 'green')}, {', '.join(counts)}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _command(model: ModelConfig) -> str:
    import shlex

    return shlex.join(model.argv)


def _row(config: Config, model: ModelConfig) -> list[str | int | None]:
    return [
        model.id,
        model.port,
        config.group_of(model.id).id,
        duration(model.ttl_s) if model.ttl_s else None,
        ", ".join(model.aliases),
        _command(model),
    ]


def _record(config: Config, model: ModelConfig) -> dict[str, Any]:
    return {
        "id": model.id,
        "aliases": list(model.aliases),
        "group": config.group_of(model.id).id,
        "port": model.port,
        "proxy": model.proxy,
        "cmd": model.cmd,
        "argv": list(model.argv),
        "ttl_s": model.ttl_s,
    }


def _findings(errors: tuple[Problem, ...], warnings: tuple[Problem, ...]) -> dict[str, Any]:
    def plain(problem: Problem) -> dict[str, Any]:
        return {"file": problem.file, "line": problem.line, "key": problem.key, "message": problem.message}

    return {"errors": [plain(problem) for problem in errors], "warnings": [plain(problem) for problem in warnings]}


def _write(value: dict[str, Any]) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))
