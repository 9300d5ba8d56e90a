"""The watcher on real files: every way in which people and machines replace a file."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from llamaswap.watch import Watch, directories

LIMIT_S = 10.0
QUICK = {"settle_s": 0.03, "gone_s": 0.06}
LONG_S = 3600.0  # a poll that never comes
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="inotify is Linux'")


class Told:
    """What the watcher found when it called, read at once as a reload does."""

    def __init__(self, files: Callable[[], Sequence[Path]]) -> None:
        self._files = files
        self._send, self._receive = trio.open_memory_channel[list[str]](100)

    async def changed(self) -> None:
        self._send.send_nowait([path.read_text() if path.exists() else "gone" for path in self._files()])

    async def next(self) -> list[str]:
        with trio.fail_after(LIMIT_S):
            return await self._receive.receive()

    async def nothing_before(self, change: Callable[[], object]) -> list[str]:
        """`change` is noticed next: what came before it was not worth telling."""
        change()
        return await self.next()


@asynccontextmanager
async def watching(
    *files: Path, directory: Path | None = None, poll_s: float = LONG_S, notify: bool = True
) -> AsyncIterator[Told]:
    def all_files() -> Sequence[Path]:
        return [*files, *(sorted(directory.glob("*.yaml")) if directory else [])]

    told = Told(all_files)
    watch = Watch(all_files, poll_s=poll_s, notify=notify, **QUICK)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run, told.changed)
        yield told
        nursery.cancel_scope.cancel()


def replace(path: Path, text: str) -> None:
    """As editors do: another file, renamed over it."""
    fresh = path.with_name(f".{path.name}.tmp")
    fresh.write_text(text)
    fresh.rename(path)


@pytest.fixture(params=[pytest.param(True, marks=linux, id="inotify"), pytest.param(False, id="polling")])
def how(request: pytest.FixtureRequest) -> dict[str, float | bool]:
    return {"notify": True} if request.param else {"notify": False, "poll_s": 0.02}


async def test_written_in_place_and_renamed_over(tmp_path: Path, how: dict[str, bool]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("1")
    async with watching(file, **how) as told:
        assert await told.next() == ["1"]
        file.write_text("two")
        assert await told.next() == ["two"]
        replace(file, "3")
        assert await told.next() == ["3"]
        os.utime(file, (1, 1))
        assert await told.next() == ["3"]


async def test_gone_it_is_ignored_until_it_is_back(tmp_path: Path, how: dict[str, bool]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("1")
    async with watching(file, **how) as told:
        assert await told.next() == ["1"]
        file.rename(tmp_path / "backup")
        assert await told.nothing_before(lambda: file.write_text("22")) == ["22"]
        assert file.exists()


@linux
async def test_it_is_not_waited_for_once_it_is_back(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("1")
    told, missed = Told(lambda: [file]), trio.Event()

    class Watching(Watch):
        async def _look(self, inotify: object) -> object:  # type: ignore[override]
            seen = await super()._look(inotify)  # type: ignore[arg-type]
            if seen[file] is None:
                missed.set()
            return seen

    watch = Watching(lambda: [file], poll_s=LONG_S, settle_s=0.03, gone_s=LONG_S)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run, told.changed)
        assert await told.next() == ["1"]
        for _ in range(2):
            file.rename(tmp_path / "backup")
            with trio.fail_after(LIMIT_S):
                await missed.wait()
            missed = trio.Event()
            (tmp_path / "another").write_text("not it")
            file.write_text("22")
            assert await told.next() == ["22"]
        nursery.cancel_scope.cancel()


async def test_a_swap_of_kubernetes_links(tmp_path: Path, how: dict[str, bool]) -> None:
    """A ConfigMap's files are links into ..data, which is a link to a directory and is renamed over."""
    for number in ("1", "2", "3"):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "config.yaml").write_text(number)
    (tmp_path / "..data").symlink_to("..1")
    file = tmp_path / "config.yaml"
    file.symlink_to("..data/config.yaml")
    async with watching(file, **how) as told:
        assert await told.next() == ["1"]
        for number in ("2", "3"):
            (tmp_path / "..data_tmp").symlink_to(f"..{number}")
            (tmp_path / "..data_tmp").rename(tmp_path / "..data")
            assert await told.next() == [number]


async def test_a_link_on_the_way_elsewhere(tmp_path: Path, how: dict[str, bool]) -> None:
    for number in ("1", "2"):
        (tmp_path / "releases" / number).mkdir(parents=True)
        (tmp_path / "releases" / number / "config.yaml").write_text(number)
    (tmp_path / "releases" / "current").symlink_to("1")
    (tmp_path / "etc").mkdir()
    file = tmp_path / "etc" / "config.yaml"
    file.symlink_to(tmp_path / "releases" / "current" / "config.yaml")
    async with watching(file, **how) as told:
        assert await told.next() == ["1"]
        (tmp_path / "releases" / "next").symlink_to("2")
        (tmp_path / "releases" / "next").rename(tmp_path / "releases" / "current")
        assert await told.next() == ["2"]
        (tmp_path / "releases" / "2" / "config.yaml").write_text("2b")
        assert await told.next() == ["2b"]


async def test_files_come_and_go_in_a_directory(tmp_path: Path, how: dict[str, bool]) -> None:
    (tmp_path / "a.yaml").write_text("a")
    async with watching(directory=tmp_path, **how) as told:
        assert await told.next() == ["a"]
        (tmp_path / "b.yaml").write_text("b")
        assert await told.next() == ["a", "b"]
        (tmp_path / "a.yaml").unlink()
        assert await told.next() == ["b"]
        (tmp_path / "note.txt").write_text("x")
        assert await told.nothing_before(lambda: (tmp_path / "b.yaml").write_text("bb")) == ["bb"]


async def test_what_was_there_for_a_moment_is_told_when_it_is_gone(tmp_path: Path) -> None:
    """Somebody wrote it, had it reloaded, and took it away again, all before the watcher would have read it."""
    stays, moment = tmp_path / "a.yaml", tmp_path / "b.yaml"
    stays.touch()
    moment.touch()
    looks = iter([[stays], [stays], [stays, moment]])
    told = trio.Event()
    calls: list[str] = []

    async def changed() -> None:
        calls.append("changed")
        if len(calls) == 2:
            told.set()

    watch = Watch(lambda: next(looks, [stays]), poll_s=0.01, notify=False, **QUICK)
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run, changed)
            await told.wait()
            nursery.cancel_scope.cancel()


async def test_what_is_written_in_pieces_is_told_once(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("1")

    class Writer(Watch):
        """Somebody who has not finished yet, the first few times that one looks."""

        pieces = 3

        async def _look(self, inotify: object) -> object:  # type: ignore[override]
            if file.read_text() != "1" and self.pieces:
                self.pieces -= 1
                with file.open("a") as stream:
                    stream.write("+")
            return await super()._look(inotify)  # type: ignore[arg-type]

    told = Told(lambda: [file])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Writer(lambda: [file], poll_s=0.02, notify=False, **QUICK).run, told.changed)
        assert await told.next() == ["1"]
        file.write_text("2")
        assert await told.next() == ["2+++"]
        nursery.cancel_scope.cancel()


@linux
async def test_without_inotify_it_polls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamaswap.watch.Inotify.open", lambda: None)
    file = tmp_path / "config.yaml"
    file.write_text("1")
    async with watching(file, poll_s=0.02) as told:
        assert await told.next() == ["1"]
        file.write_text("22")
        assert await told.next() == ["22"]


@linux
async def test_it_leaves_no_descriptor(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("1")
    before = os.listdir("/proc/self/fd")
    async with watching(file) as told:
        await told.next()
        assert len(os.listdir("/proc/self/fd")) > len(before)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert directories([tmp_path / "a" / "config.yaml"]) >= {tmp_path}
