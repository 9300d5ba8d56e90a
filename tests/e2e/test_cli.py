"""The command line: every flag in both forms, every mistake a clear line, TLS, and what standard output gets."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
import zipapp_runner
from harness import CHAT, Call, Stage, Wire, command, marked, request_bytes, stage, start, until

RUN_S = 30
CONFIG = {"models": {"a": {"cmd": "true ${PORT}"}}}


def run(pyz: Path, cwd: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A run that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, str(pyz), *arguments],
        capture_output=True,
        text=True,
        timeout=RUN_S,
        cwd=cwd,
        env={**os.environ, **environment},
        check=False,
    )


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """What it said when it did not start, after a look at the manner of it."""
    assert done.returncode == 1, done
    assert done.stdout == "" and "Traceback" not in done.stderr, done
    assert all(line.startswith("llamaswap: ") for line in done.stderr.splitlines()), done.stderr
    return done.stderr


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(CONFIG))
    return path


# -- mistakes


@pytest.mark.parametrize("dashes", ["-", "--"])
def test_version_and_help(pyz: Path, tmp_path: Path, dashes: str) -> None:
    done = run(pyz, tmp_path, f"{dashes}version")
    assert done.returncode == 0 and done.stdout.startswith("version: ") and ", built at " in done.stdout
    done = run(pyz, tmp_path, f"{dashes}help")
    assert done.returncode == 0
    for flag in ("config", "config-dir", "listen", "tls-cert-file", "tls-key-file", "watch-config", "version", "demo"):
        assert f"--{flag}" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [("--no-such-flag",), ("--conf", "x"), ("surplus",), ("--config",), ("-listen",), ("--listen", "-x", "--config")],
)
def test_wrong_usage(pyz: Path, config: Path, arguments: tuple[str, ...]) -> None:
    done = run(pyz, config.parent, *arguments)
    assert done.returncode in (1, 2) and done.stdout == "" and "Traceback" not in done.stderr
    assert "llamaswap" in done.stderr


def test_no_configuration(pyz: Path, tmp_path: Path) -> None:
    said = refusal(run(pyz, tmp_path))
    assert "config.yaml" in said and "--config" in said and "--demo" in said
    assert "other.yaml" in refusal(run(pyz, tmp_path, "--config", "other.yaml"))
    assert "directory" in refusal(run(pyz, tmp_path, "--config", str(tmp_path)))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"models: [", "config.yaml:"),
        (b"models:\n  a:\n    cmd: x\n   b: y\n", "config.yaml:4"),
        (
            b"models:\n  a:\n    cmd: x ${PORT}\n    ttl: ten\n  b:\n    cmd: x\n    bad: 1\n",
            "config.yaml:4: models.a.ttl",
        ),
        (b"models:\n  a: {cmd: x}\n  a: {cmd: y}\n", "config.yaml:3"),
        (b"- a\n- b\n", "config.yaml:1"),
        (b"models: {a: {cmd: 'x ${nope}'}}", "unknown macro '${nope}'"),
        (b"models: {a: {cmd: '${env.NO_SUCH_VARIABLE}'}}", "NO_SUCH_VARIABLE"),
        (b"models: {a: {cmd: x, proxy: 'http://localhost:${PORT}'}}", "proxy uses ${PORT} but cmd does not"),
        (b"\xff\xfe\x00", "config.yaml"),
        (b"models: {a: {cmd: \x07}}", "config.yaml:1"),
        (b"matrix: {vars: {x: a}}\nmodels: {a: {cmd: 'x ${PORT}'}}", "config.yaml:1"),
        (b"models: {a: {cmd: 'x ${PORT}'}}\nstartPort: 70000", "config.yaml:2"),
        (b"&a [*a]", "config.yaml"),
        (b"[" * 5000, "config.yaml"),
        (b'models: {a: {cmd: "x \'unclosed ${PORT}"}}', "config.yaml:1"),
    ],
)
def test_a_configuration_that_cannot_be_used(pyz: Path, config: Path, text: bytes, says: str) -> None:
    config.write_bytes(text)
    assert says in refusal(run(pyz, config.parent, "--config", "config.yaml"))


def test_all_mistakes_are_told_at_once(pyz: Path, config: Path) -> None:
    config.write_text(
        "models:\n  a:\n    cmd: x ${PORT}\n    ttl: ten\n"
        "  b:\n    cmd: y ${PORT}\n    aliases: 3\nlogToStdout: maybe\n"
    )
    said = refusal(run(pyz, config.parent))
    for place in ("config.yaml:4", "config.yaml:7", "config.yaml:8", "3 problems"):
        assert place in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_configuration_that_cannot_be_read(pyz: Path, config: Path) -> None:
    config.chmod(0)
    assert "ermission" in refusal(run(pyz, config.parent))


@pytest.mark.parametrize(
    ("listen", "says"),
    [
        ("127.0.0.1:notaport", "notaport"),
        ("127.0.0.1:70000", "70000"),
        ("127.0.0.1:-1", "-1"),
        ("no-such-host.invalid:8080", "no-such-host.invalid"),
        ("::1:8080", "[::1]"),
        ("192.0.2.1:8080", "192.0.2.1"),
        ("http://127.0.0.1:8080", "127.0.0.1"),
        ("a" * 300 + ":8080", "aaa"),
        ("bad..name:8080", "bad..name"),
        ("[127.0.0.1:80", "127.0.0.1"),
    ],
)
def test_a_place_where_one_cannot_listen(pyz: Path, config: Path, listen: str, says: str) -> None:
    assert says in refusal(run(pyz, config.parent, "--listen", listen))


def test_an_address_in_use(pyz: Path, config: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refusal(run(pyz, config.parent, "--listen", f"127.0.0.1:{port}"))
        assert str(port) in said and "--listen" in said


def test_an_address_in_use_by_another_one_of_its_kind(pyz: Path, tmp_path: Path) -> None:
    with stage(pyz, tmp_path, {"a": {}}) as on:
        said = refusal(run(pyz, tmp_path, "--listen", f"127.0.0.1:{on.port}"))
        assert str(on.port) in said
        assert on.ask("a").status == 200


# -- TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def files(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("certificates")
    good, other = authority.issue_cert("localhost", "127.0.0.1"), authority.issue_cert("localhost")
    good.private_key_pem.write_to_path(str(directory / "key.pem"))
    for blob in good.cert_chain_pems:
        blob.write_to_path(str(directory / "cert.pem"), append=True)
    other.private_key_pem.write_to_path(str(directory / "other.pem"))
    (directory / "garbage.pem").write_text("no certificate")
    (directory / "empty.pem").touch()
    names = {path.stem: str(path) for path in directory.iterdir()}
    return {**names, "missing": str(directory / "missing.pem"), "directory": str(directory)}


@pytest.mark.parametrize(
    ("cert", "key", "says"),
    [
        ("cert", None, "--tls-key-file"),
        (None, "key", "--tls-cert-file"),
        ("missing", "key", "missing.pem"),
        ("cert", "missing", "missing.pem"),
        ("cert", "other", "other.pem"),
        ("garbage", "key", "garbage.pem"),
        ("cert", "garbage", "garbage.pem"),
        ("empty", "key", "empty.pem"),
        ("directory", "key", "--tls-cert-file"),
        ("key", "cert", "key.pem"),
    ],
)
def test_certificates_that_cannot_be_used(
    pyz: Path, config: Path, files: dict[str, str], cert: str | None, key: str | None, says: str
) -> None:
    arguments = ["--tls-cert-file", files[cert]] if cert else []
    arguments += ["--tls-key-file", files[key]] if key else []
    assert says in refusal(run(pyz, config.parent, *arguments))


@pytest.fixture(scope="module")
def secure(
    pyz: Path, files: dict[str, str], authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    flags = ("-tls-cert-file", files["cert"], "-tls-key-file", files["key"])
    directory = tmp_path_factory.mktemp("tls")
    with stage(pyz, directory, {"a": {}, "b": {}}, flags=flags, tls=context, unloadTimeout=2) as on:
        yield on


def test_https(secure: Stage) -> None:
    assert secure.get("/health").body == b"OK"
    answer = secure.ask("a", size=3_000_000)
    assert answer.complete and len(answer.body) == 3_000_000
    assert f"https://127.0.0.1:{secure.port}" in secure.log()


def test_https_streams_leaves_and_breaks(secure: Stage) -> None:
    call = secure.call("a", stream=True, chunk_gate="never", tag="leaving")
    call.until_body(b'"n": 0}')
    call.leave()
    secure.happens("gone", "a", tag="leaving")
    answer = secure.ask("a", stream=True, chunks=9, die="kill", die_after=4)
    assert answer.trouble and not answer.complete
    assert secure.ask("b").status == 200


def test_plain_http_to_https_harms_nobody(secure: Stage) -> None:
    with socket.create_connection(("127.0.0.1", secure.port)) as plain:
        plain.settimeout(RUN_S)
        plain.sendall(request_bytes("GET", "/health"))
        with contextlib.suppress(ConnectionResetError):
            while plain.recv(1000):
                pass
    assert secure.get("/health").status == 200


# -- flags


@pytest.mark.parametrize("dashes", ["-", "--"])
@pytest.mark.parametrize("joined", [False, True])
def test_flags_in_every_form(pyz: Path, tmp_path: Path, dashes: str, joined: bool) -> None:
    port = zipapp_runner.free_ports(2)
    (tmp_path / "models").mkdir()
    model = {"cmd": command(tmp_path / "models")}
    (tmp_path / "my.yml").write_text(json.dumps({"models": {"a": model}, "startPort": port + 1}))
    pairs = [(f"{dashes}config", "my.yml"), (f"{dashes}listen", f"127.0.0.1:{port}")]
    arguments = ["=".join(pair) for pair in pairs] if joined else [part for pair in pairs for part in pair]
    process = start(pyz, tmp_path, *arguments, f"{dashes}watch-config")
    try:
        server = zipapp_runner.Running(process, port, tmp_path / "llamaswap.log")
        server.wait_until_up()
        process.send_signal(signal.SIGTERM)
        assert process.wait(RUN_S) == 0
        assert "--watch-config" in server.log.read_text()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("listen", ["127.0.0.1:{}", "{}", "localhost:{}", ":{}", "0.0.0.0:{}", "[::1]:{}"])
def test_ways_to_say_where(pyz: Path, config: Path, listen: str) -> None:
    port = zipapp_runner.free_ports(1)
    host = "::1" if "::1" in listen else "127.0.0.1"
    if host == "::1" and not has_ipv6():
        pytest.skip("no IPv6 here")
    process = start(pyz, config.parent, "--listen", listen.format(port))
    log = config.parent / "llamaswap.log"
    try:
        until(lambda: "listens on" in log.read_text() or process.poll() is not None, "it listens")
        with socket.create_connection((host, port), timeout=RUN_S) as client:
            client.sendall(request_bytes("GET", "/health"))
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        process.send_signal(signal.SIGTERM)
        assert process.wait(RUN_S) == 0
        assert ("other machines can reach" in log.read_text()) == listen.startswith((":", "0.0.0.0"))
    finally:
        process.kill()
        process.wait()


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


# -- what it prints


@pytest.mark.parametrize("what", ["proxy", "upstream", "both", "none"])
def test_standard_output_gets_what_was_asked_for(pyz: Path, tmp_path: Path, what: str) -> None:
    with stage(pyz, tmp_path, {"a": {}}, logToStdout=what, logTimeFormat="rfc3339") as on:
        on.script("a", say="said by the model\n")
        assert on.ask("a").status == 200
        on.get("/logs")
    assert ("said by the model" in on.log()) == (what in ("upstream", "both"))
    assert ("starting a" in on.log()) == (what in ("proxy", "both"))
    assert (f'"POST {CHAT}" 200' in on.log()) == (what in ("proxy", "both"))
    if what == "proxy":
        assert all(line[:2] == "20" and line[10] == "T" for line in on.log().splitlines()), on.log()


def test_warnings_of_the_configuration_are_in_the_log(pyz: Path, tmp_path: Path) -> None:
    with stage(pyz, tmp_path, {"a": {"tttl": 3}}, healthCheckTimeuot=20) as on:
        pass
    assert "tttl" in on.log() and "ttl" in on.log() and "healthCheckTimeout" in on.log()


@pytest.mark.parametrize("end", ["closed", "full"])
def test_nobody_needs_to_read_what_it_prints(pyz: Path, tmp_path: Path, end: str) -> None:
    """A pipe whose reader is gone, or never reads, does not hold it up."""
    port = zipapp_runner.free_ports(2)
    (tmp_path / "models").mkdir()
    model = {"cmd": command(tmp_path / "models")}
    config = {"models": {"a": model}, "startPort": port + 1, "logToStdout": "both"}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    (tmp_path / "models" / "a.json").write_text(json.dumps({"flood": 1_000_000}))
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, str(pyz), "--listen", f"127.0.0.1:{port}"],
        stdin=subprocess.DEVNULL, stdout=write, stderr=subprocess.DEVNULL, cwd=tmp_path,
    )  # fmt: skip
    os.close(write)
    if end == "closed":
        os.close(read)
    try:
        server = zipapp_runner.Running(process, port, Path(os.devnull))
        server.wait_until_up()
        assert Call(Wire(port), request_bytes("POST", CHAT, b'{"model": "a"}')).wait().status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(RUN_S) == 0
        until(lambda: not marked(str(tmp_path / "models")), "no model is left")
    finally:
        process.kill()
        process.wait()
        if end == "full":
            os.close(read)


def test_standard_streams_that_are_closed(pyz: Path, tmp_path: Path) -> None:
    port = zipapp_runner.free_ports(2)
    (tmp_path / "config.yaml").write_text(json.dumps(CONFIG))
    shell = f'exec "{sys.executable}" "{pyz}" --listen 127.0.0.1:{port} <&- >&- 2>&-'
    process = subprocess.Popen(["/bin/sh", "-c", shell], cwd=tmp_path)
    try:
        zipapp_runner.Running(process, port, Path(os.devnull)).wait_until_up()
        process.send_signal(signal.SIGTERM)
        assert process.wait(RUN_S) == 0
    finally:
        process.kill()
        process.wait()
