"""Small things of the system: ports, exit codes, the end of an output."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable

import pytest
import trio

from llamaswap.upstream import ports
from llamaswap.upstream.output import LINE_CHARS, LINES, TEXT_CHARS, Tail
from llamaswap.upstream.posix import command_problem, describe_exit
from llamaswap.upstream.process import go_duration

LIMIT_S = 10


@pytest.mark.parametrize(
    ("listens", "proxy", "is_taken"),
    [
        ("127.0.0.1", "http://127.0.0.1:1", True),
        ("127.0.0.1", "http://localhost:1", True),
        ("127.0.0.1", "https://0.0.0.0:1/v1", True),
        ("127.0.0.1", "http://[::1]:1", False),
        ("0.0.0.0", "http://127.0.0.1:1", True),
        ("::1", "http://localhost:1", True),
        ("::1", "http://127.0.0.1:1", False),
        ("::", "http://localhost:1", True),
        ("127.0.0.1", "http://192.0.2.7:1", False),
        ("127.0.0.1", "http://gpu-box.example:1", False),
    ],
)
async def test_a_port_is_taken_where_the_model_would_be_asked(listens: str, proxy: str, is_taken: bool) -> None:
    family = socket.AF_INET6 if ":" in listens else socket.AF_INET
    try:
        server = socket.create_server((listens, 0), family=family)
    except OSError:
        pytest.skip(f"no {listens} here")
    with server:
        port = server.getsockname()[1]
        assert (await ports.taken(proxy, port) is not None) is is_taken
    assert await ports.taken(proxy, port) is None


@pytest.mark.parametrize("reuse", [0, 1])
async def test_connections_that_linger_after_their_server_do_not_count(reuse: int) -> None:
    """TIME_WAIT is on the side that closed first."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            accepted.close()
            assert client.recv(1) == b""
    assert await ports.taken(f"http://127.0.0.1:{port}", port) is None


async def test_a_listener_with_a_full_backlog_counts() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        address = server.getsockname()
        clients = [socket.socket() for _ in range(4)]
        try:
            for client in clients:
                client.setblocking(False)
                client.connect_ex(address)
            with trio.fail_after(LIMIT_S):
                assert await ports.taken("http://127.0.0.1", address[1]) is not None
        finally:
            for client in clients:
                client.close()


async def test_the_holder_of_a_port(free_port: Callable[[], int]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, trio.fail_after(LIMIT_S):
        by = await ports.holder(server.getsockname()[1])
        if by is not None or sys.platform.startswith("linux"):
            assert by == f"pid {os.getpid()}, which is llamaswap itself"
        assert await ports.holder(free_port()) is None


async def test_the_holder_is_asked_of_lsof_where_proc_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    if ports.shutil.which("lsof") is None:
        pytest.skip("no lsof here")
    monkeypatch.setattr(ports, "_holder_in_proc", lambda port: None)
    with socket.create_server(("127.0.0.1", 0)) as server, trio.fail_after(LIMIT_S):
        by = await ports.holder(server.getsockname()[1])
        assert by is None or str(os.getpid()) in by  # it may not be allowed to look


@pytest.mark.parametrize(
    ("code", "words"), [(0, "exit code 0"), (3, "exit code 3"), (-15, "signal SIGTERM"), (-99, "signal 99")]
)
def test_exits_in_words(code: int, words: str) -> None:
    assert describe_exit(code) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(15, "15s"), (120, "2m0s"), (3725, "1h2m5s"), (0.5, "0.5s"), (90.5, "1m30.5s")]
)
def test_durations_as_llama_swap_writes_them(seconds: float, words: str) -> None:
    assert go_duration(seconds) == words


def test_commands_are_looked_up_in_the_models_path() -> None:
    assert command_problem(["sh"], {"PATH": "/bin:/usr/bin"}) is None
    assert "not found: sh" in (command_problem(["sh"], {"PATH": "/nowhere"}) or "")


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (b"", ""),
        (b"\n\n  \n", ""),
        (b"one\r\ntwo\n\nthree", "one\ntwo\nthree"),
        (b"\x1b[1;31mred\x1b[0m\x07 \xff end\n", "red � end"),
        (b"load 10%\rload 50%\rload 99%\ndone", "load 99%\ndone"),
        (b"\x1b]0;title\x07shown", "shown"),
    ],
)
def test_the_end_of_an_output(written: bytes, text: str) -> None:
    tail = Tail()
    tail.write(written)
    assert tail.text() == text


def test_the_end_of_a_long_output_is_bounded() -> None:
    tail = Tail()
    for i in range(100_000):
        tail.write(b"line %d\n" % i)
    assert tail.text().splitlines() == [f"line {i}" for i in range(100_000 - LINES, 100_000)]
    tail.write(b"x" * 10_000_000)
    assert len(tail.text()) <= TEXT_CHARS + 1 and len(tail._data) < 100_000
    tail.write(b"\n" + b"y" * 1000 + b"\n" + b"z" * 1000)
    assert tail.text().splitlines()[-1] == "z" * LINE_CHARS + "…"
