"""A stand-in inference server for tests from outside: standard library only, up within milliseconds.

Run as `fake_model.py --port N --name NAME --home DIRECTORY`. In the directory:

- `NAME.json` says how the next start goes (see `STARTS`); without it, it listens at once.
- `NAME.<request's tag>` and other *gates* are files: who waits for one goes on when it exists.
- `journal` gets one JSON line for everything that happens, with the time (monotonic, one clock
  for all processes on Linux) and the pid.

What it does with a request stands in the request: member `do` of a JSON body, or `do` in the query
(see `DOES`). Without it, the answer tells what arrived, byte for byte, and from whom.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

STARTS = {
    "say": "",  # printed on stdout
    "complain": "",  # printed on stderr
    "flood": 0,  # bytes of output, in lines
    "exit": None,  # leave with this code, before it listens
    "exit_gate": "",  # but not before this gate opens
    "crash_share": 0.0,  # the chance to exit with code 3
    "bind_gate": "",  # listen when this gate opens
    "bind_after_s": 0.0,
    "health_gate": "",  # /health says 503 until this gate opens
    "health": 200,  # what it says then
    "ignore_term": False,
    "exit_on_term": 0,
    "grandchild": False,  # one that ignores TERM and holds stdout
    "astray": False,  # it makes a session of its own
}
DOES = {
    "tag": "",  # names the request in the journal
    "gate": "",  # no byte of an answer before this gate opens
    "once": "",  # `die` only if this gate is closed, and open it
    "die": "",  # before the first byte: kill | exit | close | reset | hang | garbage
    "chunks": 0,  # stream so many events
    "gap_s": 0.0,  # between them
    "chunk_gate": "",  # after the first chunk, wait for this gate
    "die_after": -1,  # `die` after so many chunks, not before the first
    "framing": "chunked",  # of a stream: chunked | length | close
    "size": 0,  # answer with so many bytes
    "status": 200,
    "env": [],  # names of variables to tell
    "then": "",  # after the answer: close (its connection) | refuse (stop listening) | kill
}
GATE_POLL_S = 0.004


class Gone(Exception):
    """The client closed its connection."""


class Model:
    def __init__(self, port: int, name: str, home: str) -> None:
        self.port, self.name, self.home = port, name, home
        self.journal = os.open(os.path.join(home, "journal"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self.start = dict(STARTS)
        try:
            with open(os.path.join(home, name.replace("/", "_") + ".json")) as file:
                self.start.update(json.load(file))
        except FileNotFoundError:
            pass
        self.listening = True
        self.wake_read, self.wake_write = os.pipe()
        os.set_blocking(self.wake_write, False)

    def note(self, event: str, **more: object) -> None:
        line = {"t": time.monotonic(), "event": event, "model": self.name, "pid": os.getpid(), **more}
        os.write(self.journal, json.dumps(line).encode() + b"\n")

    def is_open(self, gate: str) -> bool:
        return os.path.exists(os.path.join(self.home, gate))

    # -- starting

    def run(self) -> None:
        start = self.start
        self.note("start")
        signal.set_wakeup_fd(self.wake_write)  # else a signal just before a system call waits for its end
        if start["ignore_term"]:
            signal.signal(signal.SIGTERM, lambda *_: self.note("term ignored"))
        else:
            signal.signal(signal.SIGTERM, self.terminated)
        if start["grandchild"]:
            self.have_child()
        os.write(1, start["say"].encode())
        os.write(2, start["complain"].encode())
        for number in range(start["flood"] // 100):
            os.write(1, b"%099d\n" % number)
        while start["exit_gate"] and not self.is_open(start["exit_gate"]):
            time.sleep(GATE_POLL_S)
        if start["exit"] is not None:
            os._exit(start["exit"])
        if random.random() < start["crash_share"]:
            os.write(2, b"crashed by chance\n")
            os._exit(3)
        time.sleep(start["bind_after_s"])
        while start["bind_gate"] and not self.is_open(start["bind_gate"]):
            time.sleep(GATE_POLL_S)
        listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        self.note("listening")
        while self.listening:
            readable, _, _ = select.select([listener, self.wake_read], [], [])
            if self.wake_read in readable:
                os.read(self.wake_read, 100)
            elif listener in readable:
                client, _ = listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self.serve, args=(client,), daemon=True).start()
        listener.close()
        self.note("refusing")
        while True:
            os.read(self.wake_read, 100)

    def terminated(self, number: int, frame: object) -> None:
        self.note("term")
        os._exit(self.start["exit_on_term"])

    def have_child(self) -> None:
        code = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('child', flush=True)\ntime.sleep(600)"
        child = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", code, "--home", self.home],
            stdin=subprocess.DEVNULL,
            start_new_session=bool(self.start["astray"]),
        )
        self.note("child", child=child.pid)

    # -- serving

    def serve(self, client: socket.socket) -> None:
        buffer = b""
        try:
            while True:
                while b"\r\n\r\n" not in buffer:
                    data = client.recv(65536)
                    if not data:
                        return
                    buffer += data
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                lines = head.decode("latin-1").split("\r\n")
                headers = [line.split(": ", 1) for line in lines[1:]]
                length = int({k.lower(): v for k, v in headers}.get("content-length", 0))
                while len(buffer) < length:
                    data = client.recv(1 << 20)
                    if not data:
                        raise Gone
                    buffer += data
                body, buffer = buffer[:length], buffer[length:]
                method, target, _ = lines[0].split(" ")
                Request(self, client, method, target, headers, body).answer()
        except (Gone, OSError):
            pass
        finally:
            client.close()

    def refuse(self) -> None:
        self.listening = False
        os.write(self.wake_write, b"x")


class Request:
    def __init__(
        self, model: Model, client: socket.socket, method: str, target: str, headers: list[list[str]], body: bytes
    ) -> None:
        self.model, self.client, self.method, self.target = model, client, method, target
        self.headers, self.body = headers, body
        self.do = dict(DOES)
        self.streams = False
        path, _, query = target.partition("?")
        self.path = path
        try:
            if query.startswith("do="):
                self.do.update(json.loads(base64.urlsafe_b64decode(query[3:])))
            else:
                sent = json.loads(body)
                self.streams = bool(sent.get("stream"))
                self.do.update(sent.get("do", {}))
        except (ValueError, AttributeError):
            pass

    def note(self, event: str, **more: object) -> None:
        self.model.note(event, tag=self.do["tag"], **more)

    def answer(self) -> None:
        do, start = self.do, self.model.start
        if self.path == "/health":
            ready = not start["health_gate"] or self.model.is_open(start["health_gate"])
            self.model.note("health")
            self.send_whole(start["health"] if ready else 503, b"ok" if ready else b"loading")
            return
        self.note("request", path=self.path)
        try:
            self.wait_for(do["gate"])
            dying = bool(do["die"])
            if dying and do["once"]:
                dying = not self.model.is_open(do["once"])
                with open(os.path.join(self.model.home, do["once"]), "w"):
                    pass
            if dying and do["die_after"] < 0:
                self.die()
            if do["chunks"] or self.streams:
                self.stream(dying)
            elif do["size"]:
                self.send_whole(do["status"], b"x" * do["size"])
            else:
                self.send_whole(do["status"], json.dumps(self.tell()).encode())
        except (Gone, OSError):
            self.note("gone")
            raise Gone from None
        self.note("answered")
        if do["then"] == "refuse":
            self.model.refuse()
            raise Gone
        if do["then"] == "close":
            raise Gone
        if do["then"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)

    def tell(self) -> dict[str, object]:
        return {
            "object": "chat.completion",
            "model": self.model.name,
            "pid": os.getpid(),
            "method": self.method,
            "target": self.target,
            "headers": self.headers,
            "body": base64.b64encode(self.body).decode() if len(self.body) < 1 << 16 else "",
            "sha256": hashlib.sha256(self.body).hexdigest(),
            "env": {name: os.environ.get(name) for name in self.do["env"]},
            "choices": [{"message": {"role": "assistant", "content": f"I am {self.model.name}"}}],
        }

    def send_whole(self, status: int, body: bytes) -> None:
        head = f"HTTP/1.1 {status} Whatever\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.client.sendall(head.encode() + body)

    def stream(self, dying: bool) -> None:
        do = self.do
        count = do["chunks"] or 3
        events = [
            b"data: %b\n\n" % json.dumps({"model": self.model.name, "pid": os.getpid(), "n": n}).encode()
            for n in range(count)
        ] + [b"data: [DONE]\n\n"]
        head = f"HTTP/1.1 {do['status']} OK\r\nContent-Type: text/event-stream\r\n"
        if do["framing"] == "chunked":
            head += "Transfer-Encoding: chunked\r\n"
        elif do["framing"] == "length":
            head += f"Content-Length: {sum(map(len, events))}\r\n"
        else:
            head += "Connection: close\r\n"
        self.client.sendall(head.encode() + b"\r\n")
        for n, event in enumerate(events):
            if dying and n == do["die_after"]:
                self.die()
            self.client.sendall(b"%x\r\n%b\r\n" % (len(event), event) if do["framing"] == "chunked" else event)
            if n == 0:
                self.note("first chunk")
                self.wait_for(do["chunk_gate"])
            if do["gap_s"] and n < count:
                self.pause(do["gap_s"])
        if do["framing"] == "chunked":
            self.client.sendall(b"0\r\n\r\n")
        elif do["framing"] == "close":
            do["then"] = "close"

    def die(self) -> None:
        how = self.do["die"]
        self.note("dying", how=how)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()
        elif how == "exit":
            os.write(2, b"out of luck\n")
            os._exit(9)
        elif how == "reset":
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif how == "garbage":
            self.client.sendall(b"\x00\x01 this is no HTTP\r\n\r\n")
        elif how == "hang":
            self.wait_for("a gate that never opens")
        raise Gone

    # -- waiting, with an eye on the client

    def wait_for(self, gate: str) -> None:
        while gate and not self.model.is_open(gate):
            self.pause(GATE_POLL_S)

    def pause(self, seconds: float) -> None:
        readable, _, _ = select.select([self.client], [], [], seconds)
        if readable and not self.client.recv(1, socket.MSG_PEEK):
            raise Gone
        if readable:
            time.sleep(seconds)


def main() -> None:
    options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    Model(int(options["--port"]), options["--name"], options["--home"]).run()


if __name__ == "__main__":
    main()
