"""Log output to a descriptor: complete when read, bounded when not, silent when gone."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from llamaswap.observe import stdout
from llamaswap.observe.logs import Logs
from llamaswap.observe.stdout import OutputThread


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        try:
            os.close(fd)
        except OSError:
            pass


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("proxy", b"ours\n"), ("upstream", b"theirs\n"), ("both", b"ours\ntheirs\n"), ("none", b"")],
)
def test_what_reaches_stdout(pipe: tuple[int, int], choice: str, expected: bytes) -> None:
    read, write = pipe
    logs = Logs(to_stdout=choice, fd=write)
    logs.proxy.write(b"ours\n")
    logs.model("m").write(b"theirs\n")
    logs.flush()
    os.close(write)
    assert os.read(read, 100) == expected


def test_a_pipe_nobody_reads_holds_nobody_up(pipe: tuple[int, int]) -> None:
    read, write = pipe
    output = OutputThread(write)
    line = b"x" * 1023 + b"\n"
    for _ in range(4096):
        output.write(line)
    assert not output.flush(0.05)
    got = b""
    while b"dropped" not in got:
        got += os.read(read, 1 << 16)
    while not got.endswith(b"x" * 1023 + b"\n"):
        got += os.read(read, 1 << 16)
    assert len(got) <= 64 * 1024 + 3 * stdout.BUFFER_BYTES
    os.set_blocking(read, False)
    while not output.flush(0.01):
        try:
            os.read(read, 1 << 16)
        except BlockingIOError:
            pass


def test_a_broken_pipe_ends_output_quietly(pipe: tuple[int, int]) -> None:
    read, write = pipe
    os.close(read)
    output = OutputThread(write)
    output.write(b"into the void\n")
    assert output.flush(5)
    output.write(b"and again\n")
    assert output.flush(5)


def test_a_descriptor_in_non_blocking_mode(pipe: tuple[int, int]) -> None:
    read, write = pipe
    os.set_blocking(write, False)
    output = OutputThread(write)
    data = b"".join(b"%07d\n" % n for n in range(32 * 1024))
    output.write(data)
    got = b""
    while len(got) < len(data):
        got += os.read(read, 1 << 16)
    assert got == data
    assert output.flush(5)


def test_a_full_disk_is_survived() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        output = OutputThread(fd)
        output.write(b"no room\n")
        assert output.flush(5)
        output.write(b"still none\n")
        assert output.flush(5)
    finally:
        os.close(fd)
