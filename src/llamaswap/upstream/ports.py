"""Is a model's port free, and if not, who has it?

A stranger (or an orphan) on the port would answer the probe in the model's place.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import shutil
import socket
import sys
from contextlib import suppress
from urllib.parse import urlsplit

import trio

CONNECT_S = 0.25  # a local listener completes a connection at once; one that cannot has a full backlog
LSOF_S = 2.0  # it can hang on a dead network mount
SHOWN_CHARS = 120  # of a holder's command line
_LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp (proc(5), include/net/tcp_states.h)


async def taken(proxy: str, port: int) -> str | None:
    """The address on which a program listens where the model of this proxy URL is to listen, or None.

    Connections in TIME_WAIT do not count. A proxy on another machine has no port here: None.
    """
    for family, host in _addresses(proxy):
        if not _bindable(family, host, port) and await _answers(family, host, port):
            return f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"
    return None


def _addresses(proxy: str) -> list[tuple[socket.AddressFamily, str]]:
    host = urlsplit(proxy).hostname or ""
    if host == "localhost":
        return [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return []
    if address.is_unspecified:
        host = "127.0.0.1" if address.version == 4 else "::1"
    return [(socket.AF_INET if address.version == 4 else socket.AF_INET6, host)]


def _bindable(family: socket.AddressFamily, host: str, port: int) -> bool:
    """False only if the address is in use; another machine's address or a forbidden port is no reason."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
    except OSError as error:
        return error.errno != errno.EADDRINUSE
    # BSD lets a wildcard listener and a bound address share a port: there only asking tells.
    return sys.platform.startswith("linux")


async def _answers(family: socket.AddressFamily, host: str, port: int) -> bool:
    with trio.socket.socket(family, socket.SOCK_STREAM) as sock:
        with trio.move_on_after(CONNECT_S):
            try:
                await sock.connect((host, port))
            except OSError:
                return False
    return True


async def holder(port: int) -> str | None:
    """Who listens on a port of this machine: `pid 123 (python3 server.py)`; None if that is not readable."""
    pid = await trio.to_thread.run_sync(_holder_in_proc, port)
    if pid is None:
        pid = await _holder_by_lsof(port)
    if pid is None:
        return None
    if pid == os.getpid():
        return f"pid {pid}, which is llamaswap itself"
    command = await _command(pid)
    return f"pid {pid} ({command})" if command else f"pid {pid}"


def _holder_in_proc(port: int) -> int | None:
    inodes = set()
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError), open(name, encoding="ascii") as file:
            for line in file:
                field = line.split()
                if len(field) > 9 and field[3] == _LISTEN and field[1].endswith(f":{port:04X}"):
                    inodes.add(f"socket:[{field[9]}]")
    if not inodes:
        return None
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            # Another user's process, or one that has just ended, cannot be read.
            with suppress(OSError), os.scandir(f"/proc/{entry}/fd") as fds:
                for fd in fds:
                    with suppress(FileNotFoundError):  # closed meanwhile
                        if os.readlink(fd.path) in inodes:
                            return int(entry)
    return None


async def _holder_by_lsof(port: int) -> int | None:
    path = shutil.which("lsof")
    if path is None:
        return None
    output = await _output_of([path, "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fp"])
    return next((int(line[1:]) for line in output.split() if line[:1] == "p" and line[1:].isdigit()), None)


async def _command(pid: int) -> str:
    text = _command_in_proc(pid)
    ps = shutil.which("ps")
    if text is None and ps is not None:
        text = await _output_of([ps, "-o", "command=", "-p", str(pid)])
    text = " ".join((text or "").split())
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"


def _command_in_proc(pid: int) -> str | None:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read(4096).replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return None


async def _output_of(argv: list[str]) -> str:
    """What a small tool prints; "" if it fails or takes longer than `LSOF_S`."""

    async def kill(process: trio.Process) -> None:
        process.kill()

    with trio.move_on_after(LSOF_S), suppress(OSError):
        done = await trio.run_process(argv, capture_stdout=True, capture_stderr=True, check=False, deliver_cancel=kill)
        return done.stdout.decode("utf-8", "replace")
    return ""
