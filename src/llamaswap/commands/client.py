"""A running server, asked over HTTP: where it is, the key it wants, and what went wrong in words.

Over http.client, because it is there at once: httpx (which brings Trio with it) would double the time that a
command takes, and Tab in a shell waits for one. Proxy settings of the environment are ignored: the server is on
this machine or near it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote, urlencode, urlsplit

from llamaswap import __version__

if TYPE_CHECKING:
    import socket
    import ssl
    from http.client import HTTPConnection, HTTPResponse

DEFAULT_SERVER = "http://127.0.0.1:8080"
DEFAULT_PORT = 8080
CONNECT_S = 5.0  # a server near by accepts at once, or is not there
ANSWER_S = 10.0  # control routes answer within milliseconds; this is for a machine that swaps

PIECE_BYTES = 65536

OK, FAILED, USAGE, UNREACHABLE = 0, 1, 2, 3
INTERRUPTED, PIPE_BROKEN = 130, 141
"""As a shell reports SIGINT and SIGPIPE."""

Query = Sequence[tuple[str, str]]


class CommandError(Exception):
    """What a command could not do, in one line for its user; `status` is the exit status.

    `answer`: the server's own words, if it said no in JSON.
    """

    def __init__(self, message: str, status: int = FAILED, answer: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.answer = answer


def parse_server(text: str) -> str:
    """The base URL, without a final slash, of what was given: a URL, or `host:port`, `host`, `:port`.

    Without a scheme it is http, and port 8080 where none is said. Raises CommandError (usage).
    """
    given = text.strip()
    with_scheme = given if "://" in given else f"http://{'127.0.0.1' if given.startswith(':') else ''}{given}"
    try:
        parts = urlsplit(with_scheme)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise CommandError(f"{text!r} is no server's address: {error}", USAGE) from error
    wrong = given == ":" or parts.query or parts.fragment or parts.username or parts.password
    if parts.scheme not in ("http", "https") or not host or wrong or any(c.isspace() for c in given):
        raise CommandError(f"{text!r} is no server's address; write it as http://127.0.0.1:8080", USAGE)
    shown = f"[{host}]" if ":" in host else host
    if "://" not in given and port is None:
        port = DEFAULT_PORT
    return f"{parts.scheme}://{shown}{f':{port}' if port is not None else ''}{parts.path.rstrip('/')}"


def read_key(file: str | None, environ: Mapping[str, str]) -> str:
    """The API key from `file` (`-`: standard input) or LLAMASWAP_API_KEY; empty if there is none to send."""
    if file is None:
        key, source = environ.get("LLAMASWAP_API_KEY", "").strip(), "LLAMASWAP_API_KEY"
    else:
        source = f"--api-key-file {file}"
        try:
            key = (sys.stdin.read() if file == "-" else Path(file).read_text("utf-8")).strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = (error.strerror or "").lower() if isinstance(error, OSError) else "not a text file"
            raise CommandError(f"{source}: {reason}", USAGE) from error
        if not key:
            raise CommandError(f"{source}: is empty; it should hold the key and nothing else", USAGE)
    if not key.isprintable() or " " in key:
        raise CommandError(f"{source}: holds more than one key; it should hold the key and nothing else", USAGE)
    return key


def model_path(prefix: str, model: str) -> str:
    """A route's path that ends with a model's id; slashes in ids stay as they are."""
    return f"{prefix}/{quote(model, safe='/:@')}"


class Server:
    """One command's connection to the server; a context manager.

    Every method raises CommandError: unreachable (3) where there is no server to speak of, else failed (1)
    with the server's own message.
    """

    def __init__(self, options: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> None:
        """`options` carries the flags of `table.WHICH_SERVER`."""
        self.url = parse_server(options.server or environ.get("LLAMASWAP_SERVER") or DEFAULT_SERVER)
        self._key = read_key(options.api_key_file, environ)
        self._timeout_s: float | None = options.timeout
        self._tls = self._context(options) if self.url.startswith("https:") else None
        self._connection: HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self._answered = False
        """Whether there was an answer, and it is HTTP."""

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def get(self, path: str, query: Query = ()) -> bytes:
        """The body of the answer."""
        return self._ask("GET", path, query)

    def get_json(self, path: str, query: Query = ()) -> Any:
        return self.parse(self.get(path, query))

    def post(self, path: str, query: Query = (), *, patient: bool = False) -> bytes:
        """The body of the answer. `patient`: it takes as long as a model does."""
        return self._ask("POST", path, query, patient=patient)

    def parse(self, body: bytes) -> Any:
        """The JSON object in an answer."""
        try:
            value = json.loads(body)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            self.stranger()
        return value

    @contextlib.contextmanager
    def understanding(self) -> Iterator[None]:
        """Around whatever reads the fields of an answer: one that lacks something is told as such."""
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CommandError(
                f"the answer of {self.url} is not what llamaswap {__version__} expects; is it another version?"
            ) from error

    @contextlib.contextmanager
    def stream(self, path: str, query: Query = ()) -> Iterator[Iterator[bytes]]:
        """The pieces of an answer as they come; waits between them for ever."""
        with self._telling():
            answer = self._send("GET", path, query, self._timeout_s or ANSWER_S)
            if answer.status != 200:
                self._refused(path, answer.status, answer.read())
            if not answer.headers.get("Content-Type", "").startswith("text/plain"):
                self.stranger()
            assert self._socket is not None
            self._socket.settimeout(None)
            yield iter(lambda: answer.read1(PIECE_BYTES), b"")

    # -- inside

    def _ask(self, method: str, path: str, query: Query, *, patient: bool = False) -> bytes:
        with self._telling():
            answer = self._send(method, path, query, self._timeout_s or (None if patient else ANSWER_S))
            body = answer.read()
        if answer.status >= 300:
            self._refused(path, answer.status, body)
        return body

    def _send(self, method: str, path: str, query: Query, wait_s: float | None) -> HTTPResponse:
        from http.client import HTTPConnection, HTTPSConnection

        self._close()
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        connect_s = min(CONNECT_S, self._timeout_s or CONNECT_S)
        if self._tls is not None:
            self._connection = HTTPSConnection(parts.hostname, parts.port, timeout=connect_s, context=self._tls)
        else:
            self._connection = HTTPConnection(parts.hostname, parts.port, timeout=connect_s)
        self._connection.connect()
        self._socket = self._connection.sock  # which the connection forgets when an answer is the last on it
        self._socket.settimeout(wait_s)
        headers = {"User-Agent": f"llamaswap/{__version__}", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}".encode().decode("latin-1")
        target = quote(parts.path, safe="/%") + path + (f"?{urlencode(query)}" if query else "")
        self._connection.request(method, target, headers=headers)
        answer = self._connection.getresponse()
        self._answered = True
        return answer

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = self._socket = None

    @staticmethod
    def _context(options: argparse.Namespace) -> ssl.SSLContext:
        import ssl

        try:
            context = ssl.create_default_context(cafile=options.ca_file)
        except OSError as error:
            reason = "holds no PEM certificate" if isinstance(error, ssl.SSLError) else (error.strerror or "").lower()
            raise CommandError(f"--ca-file {options.ca_file}: {reason}", USAGE) from error
        if options.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """What goes wrong on the way becomes what the user has to know."""
        from http.client import HTTPException

        try:
            yield
        except BrokenPipeError:
            if self._answered:
                raise  # of our own output: whoever follows a log writes while it comes
            raise CommandError(self._why_not(BrokenPipeError("broken off")), UNREACHABLE) from None
        except UnicodeError as error:
            raise CommandError(f"{self.url} is no server's address: no such host name", USAGE) from error
        except (OSError, HTTPException) as error:
            raise CommandError(self._why_not(error), UNREACHABLE) from error

    def _why_not(self, error: Exception) -> str:
        import ssl

        if isinstance(error, TimeoutError):
            return f"{self.url} does not answer in time"
        if isinstance(error, ssl.SSLCertVerificationError):
            return (
                f"the certificate of {self.url} is not trusted: {error.verify_message}; "
                "name its authority with --ca-file, or use --insecure"
            )
        if isinstance(error, ssl.SSLError) and not self._answered:
            return f"{self.url} speaks no TLS; is it http?"
        if isinstance(error, ConnectionRefusedError):
            return (
                f"nothing listens on {self.url}; start it with: llamaswap --config config.yaml, "
                "or say where it is with --server or LLAMASWAP_SERVER"
            )
        reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        if self._socket is None:
            return f"cannot reach {self.url}: {reason}"
        hint = "" if self._tls or self._answered else "; does it want https?"
        return f"the connection to {self.url} broke: {reason}{hint}"

    def _refused(self, path: str, status: int, body: bytes) -> NoReturn:
        """An answer that says no, in its own words."""
        try:
            said = json.loads(body)["error"]
            message, code = str(said["message"]), str(said["code"])
        except (ValueError, KeyError, TypeError):
            self.stranger(f" (it answers {status})")
        if status == 401:
            if self._key:
                raise CommandError(f"{self.url} does not accept this API key")
            raise CommandError(f"{self.url} wants an API key: set LLAMASWAP_API_KEY, or name its file: --api-key-file")
        if code == "not_found" and message.startswith("404 page"):
            raise CommandError(f"the llamaswap on {self.url} is older and does not know {path}")
        raise CommandError(message, answer=body)

    def stranger(self, more: str = "") -> NoReturn:
        """An answer that no llamaswap gives."""
        raise CommandError(f"what listens on {self.url} does not seem to be a llamaswap{more}")
