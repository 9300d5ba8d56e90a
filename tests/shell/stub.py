"""A stand-in inference server for tests with real processes: run as a script, told what to do by options.

Uses sockets only, so that it is up within milliseconds. `FakeLauncher` understands the same options.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time


def parser() -> argparse.ArgumentParser:
    it = argparse.ArgumentParser()
    it.add_argument("--port", type=int, default=0)
    it.add_argument("--host", default="127.0.0.1")
    it.add_argument("--bind-after", type=float, default=0.0, help="seconds until it listens")
    it.add_argument("--ready-after", type=float, default=0.0, help="seconds until health is 200; -1 never")
    it.add_argument("--hang-first", type=int, default=0, help="so many requests are never answered")
    it.add_argument("--say", default="", help="printed at the start")
    it.add_argument("--say-ready", action="store_true", help="print a line when health turns 200")
    it.add_argument("--exit", type=int, default=None, help="exit at once with this code")
    it.add_argument("--ignore-term", action="store_true")
    it.add_argument("--stop-takes", type=float, default=0.0, help="seconds from TERM to exit")
    it.add_argument("--child", action="store_true", help="start a child that ignores TERM and holds stdout")
    return it


CHILD = (
    "import os,signal,time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('child', os.getpid(), flush=True)\ntime.sleep(60)"
)


def main() -> None:
    args = parser().parse_args()
    if args.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif args.stop_takes:

        def slowly(number: int, frame: object) -> None:
            time.sleep(args.stop_takes)
            os._exit(0)

        signal.signal(signal.SIGTERM, slowly)
    print("pid", os.getpid(), flush=True)
    if args.say:
        print(args.say, flush=True)
    if args.child:
        subprocess.Popen([sys.executable, "-S", "-E", "-c", CHILD])
    if args.exit is not None:
        os._exit(args.exit)
    begun = time.monotonic()
    time.sleep(args.bind_after)
    family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
    server = socket.create_server((args.host, args.port), family=family)
    hung = []
    asked = 0
    said = not args.say_ready
    while True:
        if not said and args.ready_after >= 0:
            server.settimeout(max(0.001, begun + args.ready_after - time.monotonic()))
        try:
            connection, _ = server.accept()
        except TimeoutError:
            said = True
            server.settimeout(None)
            print("ready", begun + args.ready_after, flush=True)
            continue
        connection.settimeout(5)
        request = b""
        while b"\r\n\r\n" not in request:
            data = connection.recv(65536)
            if not data:
                break
            request += data
        asked += 1
        if asked <= args.hang_first:
            hung.append(connection)
            continue
        path = request.split(b" ")[1] if b" " in request else b""
        if path == b"/exit":
            os._exit(3)
        ready = args.ready_after >= 0 and time.monotonic() - begun >= args.ready_after
        body = b"%s asked %d\n" % (path, asked)
        status = b"200 OK" if ready else b"503 Loading"
        connection.sendall(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
        connection.close()


if __name__ == "__main__":
    main()
