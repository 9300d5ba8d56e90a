"""Another configuration while the server runs: read, compared, applied in one go, and told.

Whatever goes by the configuration registers with `on_apply`. All of it is switched over in one synchronous
step, so that no request ever sees half of a reload; a configuration with an error in it changes nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import trio

from llamaswap.config.diff import ConfigDiff, diff
from llamaswap.config.effective import effective
from llamaswap.config.load import load_sources
from llamaswap.config.redact import Redactor
from llamaswap.config.settings import Config
from llamaswap.config.sources import Place, Source
from llamaswap.errors import BadRequest, ConfigError, Problem, SwapError
from llamaswap.observe.store_file import examine
from llamaswap.routing.catalogue import Catalogue
from llamaswap.routing.lifecycle import State
from llamaswap.upstream.fleet import Fleet, Lease
from llamaswap.watch import Watch

log = logging.getLogger("llamaswap.reload")

READ_S = 10.0  # for the files; a network file system that has gone away would keep all later reloads waiting

Apply = Callable[[Config, Catalogue], None]
"""Go by this from now on. Synchronous, must not raise."""
Told = Callable[[Mapping[str, object]], None]
"""Hears the outcome of every reload, as /api/config tells it."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the configuration came from."""

    place: Place | None = None
    """None: from nowhere that could be read again (--demo)."""
    sources: tuple[Source, ...] = ()
    """What was read."""
    watched: bool = False
    """Reload when the files change (--watch-config)."""


NOWHERE = Origin()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a reload."""

    at: datetime
    diff: ConfigDiff
    problems: Sequence[Problem] = ()
    """Why it was refused; empty if it was not."""

    def record(self) -> dict[str, object]:
        """As /api/config, the event and the answer to a reload tell it."""
        return {
            "at": _rfc3339(self.at),
            "ok": not self.problems,
            "added": list(self.diff.added),
            "changed": list(self.diff.changed),
            "updated": list(self.diff.updated),
            "removed": list(self.diff.removed),
            "unchanged": len(self.diff.unchanged),
            "settings": list(self.diff.settings),
            "restart_needed": list(self.diff.restart_needed),
            "errors": [_record(problem) for problem in self.problems],
        }


class Reloader:
    """Holds the configuration in force, and replaces it."""

    def __init__(self, origin: Origin, config: Config, fleet: Fleet) -> None:
        """`config` is what `origin` came to."""
        self.place = origin.place
        self.config = self._started = config
        self.catalogue = Catalogue(config)
        self._fleet = fleet
        self._sources = origin.sources
        self._read = self._sources
        """What was read last, whether it could be used or not."""
        self._problems: Sequence[Problem] = ()
        self._warnings: Sequence[Problem] = config.warnings
        self._loaded_at = datetime.now(UTC)
        self._appliers: list[Apply] = []
        self.on_reload: list[Told] = []
        self.last: Outcome | None = None
        self._one_at_a_time = trio.Lock()
        self._reading = trio.CapacityLimiter(1)  # of its own: reads that hang must not take everybody's threads

    def on_apply(self, fn: Apply) -> None:
        """Have `fn` called with each new configuration, in the order of registration, the fleet after all."""
        self._appliers.append(fn)

    async def reload(self, why: str, *, if_changed: bool = False) -> Outcome | None:
        """Read the files again and go by them. Never raises but Cancelled; a refusal is in the outcome.

        Parsing is done in a thread, so that streams go on. With `if_changed`, files that say what they said
        the last time are left alone, and the result is None. One after the other, if several ask.
        """
        async with self._one_at_a_time:
            begun = time.perf_counter()
            outcome = await self._reload(if_changed)
            if outcome is None:
                return None
            self.last = outcome
            self._log(why, outcome, time.perf_counter() - begun)
            for told in self.on_reload:
                told(outcome.record())
            return outcome

    async def _reload(self, if_changed: bool) -> Outcome | None:
        place, at = self.place, datetime.now(UTC)
        if place is None:
            return Outcome(at, ConfigDiff(), [Problem("there is no configuration file to read again")])
        keep = {**self.config.ports(), **self._fleet.ports()}

        def load(sources: Sequence[Source]) -> Config:
            if not any(source.text.strip() for source in sources):
                # More likely a disk that was full than somebody who wants no models at all.
                raise ConfigError([Problem("is empty, and ignored", file=source.file) for source in sources])
            found = load_sources(sources, keep_ports=keep)
            if found.start_port != self.config.start_port:  # only what runs keeps its port then
                found = load_sources(sources, keep_ports=self._fleet.ports())
            if found.store_path and found.store_path != self._started.store_path:
                examine(found.store_path)  # else the next start would fail
            return found

        sources: tuple[Source, ...] = ()
        try:
            sources = await self._texts(place)
            if if_changed and sources == self._read:
                return None
            config = await trio.to_thread.run_sync(load, sources, abandon_on_cancel=True)
        except ConfigError as error:
            if if_changed and list(error.problems) == list(self._problems):
                return None
            self._problems, self._warnings = error.problems, error.warnings
            self._read = sources
            return Outcome(at, ConfigDiff(), error.problems)
        except Exception:  # a bug in reading must not end what runs
            log.exception("reading the configuration failed")
            return Outcome(at, ConfigDiff(), [Problem("internal error while reading it; the log says more")])
        self._problems, self._warnings, self._loaded_at = (), config.warnings, at
        self._read = self._sources = sources
        return self._apply(config, at)

    async def _texts(self, place: Place) -> tuple[Source, ...]:
        """What the files say. Raises ConfigError, also if they cannot be read in READ_S."""
        with trio.move_on_after(READ_S):
            return tuple(await trio.to_thread.run_sync(place.read, abandon_on_cancel=True, limiter=self._reading))
        message = f"cannot be read: no answer from the file system in {READ_S:g} s"
        raise ConfigError([Problem(message, file=str(place.file or place.directory))])

    def _apply(self, config: Config, at: datetime) -> Outcome:
        """Switch over. No await from here to the end: for everybody it is one moment."""
        found = diff(self.config, config, self._started)
        loaded = {view.id for view in self._fleet.views() if view.state in (State.STARTING, State.READY)}
        again = [id for id in config.preload if id in found.changed and id in loaded]
        self.config, self.catalogue = config, Catalogue(config)
        for apply in self._appliers:
            try:
                apply(config, self.catalogue)
            except Exception:  # one part's trouble must not leave the others with the older configuration
                log.exception("a part of the server could not take the new configuration")
        self._fleet.reconfigure(config, self.catalogue)
        for model_id in config.preload:
            if model_id in found.preload or model_id in found.added or model_id in again:
                preload(self._fleet, config, model_id)
        return Outcome(at, found)

    async def watch(self) -> None:
        """Reload whenever the files change, until cancelled."""
        if self.place is None:
            return
        where = " and ".join(str(path) for path in (self.place.file, self.place.directory) if path is not None)
        log.info("--watch-config: reloading whenever %s changes", where)
        await Watch(self._files).run(self._changed)

    async def _changed(self) -> None:
        await self.reload("the configuration has changed", if_changed=True)

    def _files(self) -> Sequence[Path]:
        try:
            return self.place.files() if self.place is not None else ()
        except ConfigError:
            return ()  # the directory is not there, or has nothing in it: as it was, until it has again

    # -- telling

    async def show(self) -> dict[str, Any]:
        """What /api/config answers, secrets taken out."""
        place, sources = self.place or Place(), self._read
        known = self._sources if sources is self._sources else (*self._sources, *sources)
        record: dict[str, Any] = {
            "path": None if place.file is None else str(place.file),
            "dir": None if place.directory is None else str(place.directory),
            "text": "",
            "files": [{"path": source.file, "text": source.text} for source in sources],
            "effective": effective(self.config),
            "warnings": [_record(problem) for problem in self._warnings],
            "errors": [_record(problem) for problem in self._problems],
            "loaded_at": _rfc3339(self._loaded_at),
            "last_reload": self.last.record() if self.last else None,
        }
        config = self.config

        def without_secrets() -> dict[str, Any]:
            shown: dict[str, Any] = Redactor(known, config).value(record)
            texts = [f"# {file['path']}\n{file['text']}" for file in shown["files"]]
            shown["text"] = "\n".join(texts) if len(texts) > 1 else "".join(file["text"] for file in shown["files"])
            return shown

        return await trio.to_thread.run_sync(without_secrets)  # many models take a while

    async def reload_now(self) -> dict[str, object]:
        """For POST /api/config/reload. Raises BadRequest that says what is wrong with the files."""
        outcome = await self.reload("asked to")
        assert outcome is not None
        if outcome.problems:
            told = "; ".join(str(problem) for problem in outcome.problems)
            raise BadRequest(f"the configuration was not reloaded: {told}")
        return outcome.record()

    def _log(self, why: str, outcome: Outcome, took_s: float) -> None:
        if outcome.problems:
            for problem in outcome.problems:
                log.error("%s", problem)
            log.error("%s: not reloaded, the configuration from before stays in force", why)
            return
        for warning in self._warnings:
            log.warning("%s", warning)
        for key in outcome.diff.restart_needed:
            log.warning("%s has changed; that takes effect with the next start", key)
        log.info("%s: reloaded in %.0f ms, %s", why, took_s * 1e3, _summary(outcome.diff))


def preload(fleet: Fleet, config: Config, model_id: str) -> None:
    """Have a model loaded that nobody has asked for yet. Synchronous; a failure is in the log."""
    lease = fleet.submit(config.models[model_id], exempt=True)
    token = trio.lowlevel.current_trio_token()

    def settled(it: object) -> None:
        token.run_sync_soon(_preloaded, lease)  # not amid the effects that settle it

    lease.on_settled = settled
    if lease.granted or lease.rejected:
        settled(lease)


def _preloaded(lease: Lease) -> None:
    if isinstance(lease.error, SwapError):
        log.error("preload of %s failed: %s", lease.model, lease.error)
    lease.release()


def _summary(found: ConfigDiff) -> str:
    parts = [
        f"{what} {', '.join(ids)}"
        for what, ids in (
            ("added", found.added),
            ("changed", found.changed),
            ("updated", found.updated),
            ("removed", found.removed),
            ("settings", found.settings),
        )
        if ids
    ]
    return "; ".join(parts) if parts else "nothing is different"


def _record(problem: Problem) -> dict[str, object]:
    return {"file": problem.file, "line": problem.line, "key": problem.key, "message": problem.message}


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
