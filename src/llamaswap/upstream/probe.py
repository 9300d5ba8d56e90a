"""Is the model up yet? Ask its health endpoint until it says 200.

How often: from every 10 ms, slowing down to a fiftieth of the time already waited and at most 1 s. Two
things make it quicker without asking a loading server often: a refused connection costs next to
nothing, so a local port that nobody listens on yet is tried every 25 ms; and a process that has just
printed something ("server is listening") is asked at once. A question that hangs delays nobody: it
stays open, and another is asked beside it.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import Any
from urllib.parse import quote, urlsplit

import httptools
import trio

PROBE_FIRST_S = 0.01  # local servers bind within milliseconds
PROBE_LAST_S = 1.0  # a server that loads for minutes is not asked more often
PROBE_SHARE = 0.02  # of the time already waited: how long readiness may go unnoticed
REFUSED_S = 0.025  # nobody is there to be bothered
HANGING_S = 0.1  # no answer for so long: ask again beside it, then after twice as long, up to PROBE_LAST_S
ATTEMPT_S = 10.0  # one question; a server that takes longer over its health is not ready
ECHO_S = 0.01  # output so soon after an answer is the server's line about our own question
OUTPUT_GAP_S = 0.03  # a talkative server is not asked after every line
BODY_S = 0.02  # for reading an answer to its end, which spares the server a broken pipe
HEAD_BYTES = 65536
RECV_BYTES = 16384


class NotReady(Exception):
    """An answer other than 200, or none; the message says what came."""


class Refused(NotReady):
    """Nothing listens."""


@dataclass(frozen=True, slots=True)
class Target:
    """What to ask, taken apart once."""

    host: str
    port: int
    tls: bool
    local: bool
    request: bytes

    @classmethod
    def of(cls, base_url: str, path: str) -> Target:
        """From a proxy URL and a checkEndpoint. Raises ValueError, saying why, if the URL is none."""
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"proxy {base_url!r} is not an http:// or https:// URL with a host")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        # Only what cannot stand in a request line is encoded; what is encoded already stays.
        target = quote(f"{parts.path.rstrip('/')}/{path.lstrip('/')}", safe="/?&=%:;,+!$'()*@~-._[]|")
        head = f"GET {target} HTTP/1.1\r\nHost: {parts.netloc.rpartition('@')[2]}\r\n"
        request = f"{head}User-Agent: llamaswap\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        return cls(
            parts.hostname,
            port,
            parts.scheme == "https",
            _is_loopback(parts.hostname),
            request.encode("latin-1", "replace"),
        )


class Probe:
    """Asks one target until it is ready. Used once."""

    def __init__(self, target: Target) -> None:
        self.last = "it was never asked"
        """What the latest answer was, for the message of a time-out."""
        self._target = target
        self._begun = trio.current_time()
        self._open = 0
        self._answered_at = -inf
        self._hanging_s = HANGING_S
        self._pause = trio.CancelScope()
        self._done = trio.CancelScope()

    def output_seen(self) -> None:
        """The process has just printed something: perhaps that it is up. Synchronous and cheap."""
        now = trio.current_time()
        if not self._open and now >= self._answered_at + ECHO_S:
            self._pause.deadline = min(self._pause.deadline, max(now, self._answered_at + OUTPUT_GAP_S))

    async def until_ready(self) -> None:
        """Return once the target has answered 200. Cancel-safe; the deadline is the caller's."""
        async with trio.open_nursery() as nursery:
            self._done = nursery.cancel_scope
            while True:
                nursery.start_soon(self._attempt)
                with trio.CancelScope(deadline=trio.current_time() + self._hanging_s) as self._pause:
                    await trio.sleep_forever()
                if self._open:
                    self._hanging_s = min(2 * self._hanging_s, PROBE_LAST_S)

    async def _attempt(self) -> None:
        self._open += 1
        longest = PROBE_LAST_S
        try:
            with trio.fail_after(ATTEMPT_S):
                await ask(self._target)
        except NotReady as answer:
            self.last = str(answer)
            if isinstance(answer, Refused) and self._target.local:
                longest = REFUSED_S
        except trio.TooSlowError:
            self.last = f"no answer within {ATTEMPT_S:g} s"
        else:
            self._done.cancel()
        finally:
            self._open -= 1
        now = self._answered_at = trio.current_time()
        self._hanging_s = HANGING_S
        wait_s = min(max(PROBE_FIRST_S, PROBE_SHARE * (now - self._begun)), longest)
        self._pause.deadline = now + wait_s


async def ask(target: Target) -> None:
    """One GET. Returns if the answer is 200, raises NotReady otherwise. Cancel-safe; set a deadline."""
    try:
        sock = await _dial(target)
    except ConnectionRefusedError:
        raise Refused("the connection was refused") from None
    except OSError as error:
        raise NotReady(f"cannot connect: {error.strerror or error}") from error
    stream: trio.abc.Stream = trio.SocketStream(sock)
    if target.tls:
        stream = trio.SSLStream(stream, _tls_context(), server_hostname=target.host, https_compatible=True)
    try:
        await stream.send_all(target.request)
        status = await _read_status(stream)
    except trio.BrokenResourceError as error:
        raise NotReady(_broken(error)) from error
    finally:
        sock.close()
    if status != 200:
        raise NotReady(f"it answers with status {status}")


class _Answer:
    """Callbacks of the HTTP parser."""

    def __init__(self) -> None:
        self.parser: Any = httptools.HttpResponseParser(self)
        self.status = 0
        self.complete = False

    def on_headers_complete(self) -> None:
        code = int(self.parser.get_status_code())
        if code >= 200 and not self.status:
            self.status = code

    def on_message_complete(self) -> None:
        self.complete = self.complete or self.status > 0


async def _read_status(stream: trio.abc.Stream) -> int:
    answer = _Answer()
    received = 0
    limit = trio.CancelScope()
    with limit:
        while not answer.complete:
            data = await stream.receive_some(RECV_BYTES)
            if not data:
                break
            received += len(data)
            try:
                answer.parser.feed_data(data)
            except httptools.HttpParserUpgrade:
                raise NotReady("it wants to switch protocols") from None
            except httptools.HttpParserError:
                if not answer.status:
                    raise NotReady("what it answers is not HTTP") from None
                break
            if received > HEAD_BYTES:
                break
            if answer.status and limit.deadline == inf:
                limit.deadline = trio.current_time() + BODY_S
    if not answer.status:
        raise NotReady("it closed the connection without an answer")
    return answer.status


async def _dial(target: Target) -> trio.socket.SocketType:
    """The first address that accepts; a refusal is the error that says most."""
    failure: OSError | None = None
    for family, address in await _addresses(target.host, target.port):
        sock = trio.socket.socket(family, socket.SOCK_STREAM)
        connected = False
        try:
            await sock.connect(address)
            connected = True
            return sock
        except OSError as error:
            if not isinstance(failure, ConnectionRefusedError):
                failure = error
        finally:
            if not connected:
                sock.close()
    raise failure or OSError(f"{target.host} has no address")


async def _addresses(host: str, port: int) -> list[tuple[int, Any]]:
    if host == "localhost":
        # Servers bind one of the two, most of them IPv4; no resolver is asked.
        return [(socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET6, ("::1", port))]
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]


def _broken(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its TLS certificate is not accepted: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return f"the TLS handshake failed: {cause.reason or cause}"
        cause = cause.__cause__
    return "it broke the connection"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@lru_cache(maxsize=1)
def _tls_context() -> ssl.SSLContext:
    return ssl.create_default_context()
