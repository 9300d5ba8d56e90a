"""`ps`, `models`, `load`, `unload`: what is there, what runs, and changing that."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from llamaswap.commands.client import FAILED, OK, USAGE, CommandError, Server, model_path
from llamaswap.commands.terminal import Cell, Colour, Column, age, clean, duration, screen, size, table

Entry = dict[str, Any]
"""A model, as GET /api/models tells it."""
Row = list[Cell | str | int | None]

_COLOURS: dict[str, Colour] = {"ready": "green", "starting": "yellow", "stopping": "yellow"}

_PS = (
    Column("MODEL", gives_way=True),
    Column("STATE"),
    Column("PID", right=True),
    Column("BUSY", right=True),
    Column("QUEUED", right=True),
    Column("MEMORY", right=True),
    Column("GPU", right=True),
    Column("UP", right=True),
    Column("UNLOADS IN", right=True),
    Column("WAITS FOR", gives_way=True),
)
_MODELS = (
    Column("MODEL", gives_way=True),
    Column("STATE"),
    Column("GROUP", gives_way=True),
    Column("ALIASES", gives_way=True),
    Column("ABOUT", gives_way=True),
    Column("LAST ERROR", gives_way=True),
)


def ps(options: argparse.Namespace) -> int:
    """Models that have a process or requests that wait for one."""
    return _list(options, _PS, _is_up, _ps_row, "no model is loaded")


def models(options: argparse.Namespace) -> int:
    """Every model of the configuration, unlisted ones included."""
    return _list(options, _MODELS, lambda entry: True, _models_row, "the configuration has no models")


def _list(
    options: argparse.Namespace,
    columns: Sequence[Column],
    wanted: Callable[[Entry], bool],
    row: Callable[[Entry], Row],
    nothing: str,
) -> int:
    with Server(options) as server:
        answer = server.get_json("/api/models")
        with server.understanding():
            found = [entry for entry in answer["models"] if wanted(entry)]
            if options.json:
                print(json.dumps({"models": found}))
            elif options.quiet:
                sys.stdout.write("".join(f"{entry['id']}\n" for entry in found))
            elif found:
                sys.stdout.write(table(columns, [row(entry) for entry in found], screen()))
            else:
                print(nothing, file=sys.stderr)
    return OK


def load(options: argparse.Namespace) -> int:
    """One after the other, since a later one may take an earlier one's place."""
    query = [("wait", "0")] if options.no_wait else []

    def one(server: Server, model: str) -> None:
        begun = time.monotonic()
        with _meanwhile(f"{clean(model)}: loading"):
            body = server.post(model_path("/api/models/load", model), query, patient=True)
        with server.understanding():
            state = str(server.parse(body)["state"])
        if options.json:
            _print_line(body)
            return
        took = f" after {duration(time.monotonic() - begun)}" if state == "ready" and not options.no_wait else ""
        print(f"{clean(model)}: {clean(state)}{took}", flush=True)

    return _each(options, options.MODEL, one)


def unload(options: argparse.Namespace) -> int:
    """Returns when they have stopped."""
    if bool(options.MODEL) == options.all:
        raise CommandError("name the models to unload, or all of them with --all", USAGE)
    if options.all:
        with Server(options) as server:
            body = server.post("/api/models/unload", patient=True)
            if server.parse(body).get("msg") != "ok":
                server.stranger()
        if options.json:
            _print_line(body)
        else:
            print("all models are unloaded")
        return OK

    def one(server: Server, model: str) -> None:
        if server.post(model_path("/api/models/unload", model), patient=True).strip() != b"OK":
            server.stranger()
        if options.json:
            print(json.dumps({"model": model, "state": "stopped"}), flush=True)
        else:
            print(f"{clean(model)}: unloaded", flush=True)

    return _each(options, options.MODEL, one)


def _print_line(body: bytes) -> None:
    """The server's JSON, on a line of its own, so that those of several models can be told apart."""
    print(json.dumps(json.loads(body)), flush=True)


@contextlib.contextmanager
def _meanwhile(text: str) -> Iterator[None]:
    """Says so on a terminal, as long as it lasts."""
    shown = screen(sys.stderr).colour
    if shown:
        print(text, end="\r", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if shown:
            print("\x1b[K", end="", file=sys.stderr, flush=True)


def _each(options: argparse.Namespace, names: Iterable[str], act: Callable[[Server, str], None]) -> int:
    """Acts on every model, whatever becomes of the others; fails if one of them did."""
    status = OK
    with Server(options) as server:
        for name in names:
            try:
                if not name:
                    raise CommandError("a model's name is empty", USAGE)
                act(server, name)
            except CommandError as error:
                if error.status != FAILED:
                    raise
                if options.json and error.answer:
                    _print_line(error.answer)
                print(f"llamaswap: {_named(name, str(error))}", file=sys.stderr)
                status = FAILED
    return status


def _named(model: str, message: str) -> str:
    """An error's message, the model before it unless it says so itself; the output of a process stays on its lines."""
    return message if model in message else f"{model}: {message}"


def _is_up(entry: Entry) -> bool:
    return entry["state"] not in ("stopped", "shutdown") or bool(entry.get("queued"))


def _state(entry: Entry) -> Cell:
    """The state; of a starting model how far it has come, of one that failed to start that it did."""
    state = str(entry["state"])
    load = entry.get("load") or {}
    elapsed, typical = load.get("elapsed_s"), load.get("typical_s")
    if state == "starting" and elapsed is not None:
        of = f" of ~{duration(typical)}" if typical is not None else ""
        return Cell(f"starting {duration(elapsed)}{of}", _COLOURS[state])
    if state == "stopped" and entry.get("last_error"):
        return Cell("failed", "red")
    return Cell(state, _COLOURS.get(state, "dim"))


def _ps_row(entry: Entry) -> Row:
    memory = entry.get("memory") or {}
    return [
        str(entry["id"]),
        _state(entry),
        entry.get("pid"),
        entry.get("in_flight"),
        entry.get("queued"),
        size(memory.get("rss_bytes")),
        size(memory.get("gpu_bytes")),
        age(entry.get("ready_since"), datetime.now().astimezone()),
        _unloads_in(entry),
        ", ".join(entry.get("waiting_for") or ()),
    ]


def _unloads_in(entry: Entry) -> str:
    if entry.get("ttl_left_s") is not None:
        return duration(entry["ttl_left_s"])
    return f"{duration(entry['ttl_s'])} idle" if entry.get("ttl_s") else "never"


def _models_row(entry: Entry) -> Row:
    about = entry.get("name") or entry.get("description")
    error = entry.get("last_error") or {}
    return [
        Cell(str(entry["id"]), "dim" if entry.get("unlisted") else ""),
        _state(entry),
        entry.get("group"),
        ", ".join(entry.get("aliases") or ()),
        about,
        str(error.get("message") or "").partition("\n")[0],
    ]
