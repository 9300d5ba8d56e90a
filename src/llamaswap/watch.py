"""Noticing that configuration files have changed.

What counts is how the files look (device, inode, size, times); where the platform can say that something
happened in a directory (inotify), it is looked at at once, else every two seconds, as it is anyway: network
file systems tell nobody.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import trio

log = logging.getLogger("llamaswap.watch")

POLL_S = 2.0  # as llama-swap
SETTLE_S = 0.1  # without a change before it is read: who writes a file writes it in pieces
GONE_S = 1.0  # the same where a file has gone: whoever replaces it may take a moment
MAX_LINKS = 40  # of symbolic links to one file, as Linux follows

# inotify(7), sys/inotify.h
_IN_CLOEXEC, _IN_NONBLOCK = os.O_CLOEXEC, os.O_NONBLOCK
_IN_ATTRIB, _IN_CLOSE_WRITE, _IN_MOVED_FROM, _IN_MOVED_TO = 0x4, 0x8, 0x40, 0x80
_IN_CREATE, _IN_DELETE, _IN_DELETE_SELF, _IN_MOVE_SELF = 0x100, 0x200, 0x400, 0x800
_IN_ONLYDIR = 0x01000000
_MASK = _IN_ATTRIB | _IN_CLOSE_WRITE | _IN_MOVED_FROM | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE
_MASK |= _IN_DELETE_SELF | _IN_MOVE_SELF | _IN_ONLYDIR

Look = dict[Path, tuple[int, ...] | None]
"""How each file looks; None: it is not there."""


def look(files: Iterable[Path]) -> Look:
    """How these files look now, symbolic links followed."""
    seen: Look = {}
    for path in files:
        seen[path] = None
        with suppress(OSError):
            now = path.stat()
            seen[path] = (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
    return seen


def directories(files: Iterable[Path]) -> set[Path]:
    """Where something happens when one of these files changes: its directory and those of all links on the way."""
    found: set[Path] = set()
    for path in files:
        todo, links = [path.absolute()], 0
        while todo:
            parts = todo.pop().parts
            at = Path(parts[0])
            for i, part in enumerate(parts[1:], 2):
                at /= part
                if at.is_symlink() and links < MAX_LINKS:
                    links += 1
                    found.add(at.parent)
                    with suppress(OSError):
                        todo.append(Path(os.path.normpath(at.parent / at.readlink()), *parts[i:]))
                    break
            else:
                found.add(at.parent)
    return found


class Watch:
    """Tells when files have changed and are quiet again."""

    def __init__(
        self,
        files: Callable[[], Sequence[Path]],
        *,
        poll_s: float = POLL_S,
        settle_s: float = SETTLE_S,
        gone_s: float = GONE_S,
        notify: bool = True,
    ) -> None:
        """`files` names what is to be watched just now, and is called in a thread. `notify` False: only look
        every `poll_s`."""
        self._files = files
        self._poll_s, self._settle_s, self._gone_s = poll_s, settle_s, gone_s
        self._notify = notify

    async def run(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Call `changed` at first, and then whenever they look different from before, until cancelled.

        What was different for a moment counts too: somebody else may have read it then. Not while none of
        them is there. What happens during the call is noticed after it.
        """
        inotify = Inotify.open() if self._notify else None
        known: Look | None = None
        try:
            while True:
                seen = await self._settled(known, inotify)
                if seen is not None:
                    known = seen
                    await changed()
                await self._something_happens(inotify, self._poll_s)
        finally:
            if inotify is not None:
                inotify.close()

    async def _settled(self, known: Look | None, inotify: Inotify | None) -> Look | None:
        """How they look, when that is new and stays so; None if there is nothing to read."""
        seen = await self._look(inotify)
        moved = False
        while seen and (moved or seen != known):
            moved, before = True, seen
            if _fewer(seen, known):
                with trio.move_on_after(self._gone_s):
                    while _fewer(seen, known):
                        await self._something_happens(inotify, self._gone_s)
                        seen = await self._look(inotify)
                if not _fewer(seen, known):
                    continue  # it is back
            else:
                await trio.sleep(self._settle_s)
            seen = await self._look(inotify)
            if seen == before:
                return seen if any(seen.values()) else None
        return None

    async def _look(self, inotify: Inotify | None) -> Look:
        # In a thread: a file system may have gone away, and the requests have nothing to do with that.
        def it() -> Look:
            files = self._files()
            if inotify is not None and files:
                inotify.watch(directories(files))
            return look(files)

        return await trio.to_thread.run_sync(it, abandon_on_cancel=True)

    @staticmethod
    async def _something_happens(inotify: Inotify | None, at_most_s: float) -> None:
        with trio.move_on_after(at_most_s):
            if inotify is None:
                await trio.sleep_forever()
            else:
                await inotify.wait()


def _fewer(seen: Look, known: Look | None) -> bool:
    """Whether a file has gone."""
    return known is not None and not known.keys() <= {path for path, how in seen.items() if how}


class Inotify:
    """Linux' own way to hear of changes in directories."""

    def __init__(self, libc: ctypes.CDLL, fd: int) -> None:
        self._libc = libc
        self._fd = fd
        self._watched: dict[int, Path] = {}
        self._refused = False

    @classmethod
    def open(cls) -> Inotify | None:
        """None where there is none, or where the system has no more of them for us."""
        if not sys.platform.startswith("linux"):
            return None
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            fd = libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
        except (OSError, AttributeError):
            return None
        if fd < 0:
            log.info("no inotify (%s): looking at the files every %g s", os.strerror(ctypes.get_errno()), POLL_S)
            return None
        return cls(libc, fd)

    def watch(self, wanted: set[Path]) -> None:
        """Hear of these directories, and of no others."""
        now: dict[int, Path] = {}
        for directory in wanted:
            # The same directory has the same number, one that was replaced gets another.
            number = self._libc.inotify_add_watch(self._fd, os.fsencode(directory), _MASK)
            if number >= 0:
                now[number] = directory
            elif ctypes.get_errno() == errno.ENOSPC and not self._refused:
                self._refused = True
                log.warning("no inotify watches left (fs.inotify.max_user_watches): %s is polled", directory)
        for number in self._watched.keys() - now.keys():
            self._libc.inotify_rm_watch(self._fd, number)  # fails for one that is gone, which is as good
        self._watched = now

    async def wait(self) -> None:
        """Return when something has happened. Cancel-safe."""
        await trio.lowlevel.wait_readable(self._fd)
        with suppress(BlockingIOError):
            while os.read(self._fd, 65536):
                continue

    def close(self) -> None:
        trio.lowlevel.notify_closing(self._fd)
        os.close(self._fd)
