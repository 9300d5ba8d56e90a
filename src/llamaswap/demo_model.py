"""A stand-in for an inference server: the APIs of llama-server in small, answering in words it was given.

Run as a file (`python -I demo_model.py --port N --says "..."`), with nothing but the standard
library, so that it starts in a moment. It answers 503 until `--load-s` has passed, as a server that
reads its weights does, and stops writing as soon as its client has gone.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MAX_TOKENS = 4096
EMBEDDING_SIZE = 8

Json = dict[str, Any]


class ClientLeft(Exception):
    """The client closed its connection in the middle of an answer."""


class BadBody(ValueError):
    """The request's body is not what the route takes."""


class Answer:
    """The words of one answer, and the accounts that every API gives of it in its own terms."""

    def __init__(self, says: str, prompt: str, limit: int | None, words_per_s: float) -> None:
        words = re.findall(r"\s*\S+", says.strip()) or ["..."]
        limit = len(words) if limit is None else max(1, min(limit, MAX_TOKENS))
        self.words = words[:limit]
        self.cut = limit < len(words)
        self.prompt_tokens = max(1, len(prompt.split()))
        self.created = int(time.time())
        self._word_s = 1 / words_per_s
        self._started = time.monotonic()

    @property
    def text(self) -> str:
        return "".join(self.words)

    def pieces(self, pause: Callable[[float], None]) -> Iterator[str]:
        """The answer word by word, at the pace of a model that generates it."""
        for i, word in enumerate(self.words):
            if i:
                pause(self._word_s)
            yield word

    def usage(self) -> Json:
        given, done = self.prompt_tokens, len(self.words)
        return {"prompt_tokens": given, "completion_tokens": done, "total_tokens": given + done}

    def anthropic_usage(self) -> Json:
        return {"input_tokens": self.prompt_tokens, "output_tokens": len(self.words)}

    def timings(self) -> Json:
        """As llama-server reports them."""
        done = len(self.words)
        took_ms = max(0.1, (time.monotonic() - self._started) * 1000)
        return {
            "prompt_n": self.prompt_tokens,
            "prompt_ms": 1.0,
            "prompt_per_second": self.prompt_tokens * 1000.0,
            "predicted_n": done,
            "predicted_ms": took_ms,
            "predicted_per_second": done * 1000 / took_ms,
        }


def text_of(content: Any) -> str:
    """All text in a prompt, a message's content or a list of them, whatever the API's nesting."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return " ".join(text_of(item) for item in content)
    if isinstance(content, dict):
        return " ".join(text_of(content[key]) for key in ("text", "content") if key in content)
    return ""


def embedding(text: str) -> list[float]:
    """A vector of length 1 that depends on the text alone."""
    digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
    raw = [byte - 127.5 for byte in digest[:EMBEDDING_SIZE]]
    norm = sum(x * x for x in raw) ** 0.5
    return [x / norm for x in raw]


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], options: argparse.Namespace) -> None:
        self.options = options
        self.ready_at: float = time.monotonic() + options.load_s
        super().__init__(address, Handler)

    def server_bind(self) -> None:
        # HTTPServer's own looks the host's name up, which can take seconds.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is no news."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server
    _id = 0

    def log_message(self, format: str, *args: Any) -> None:
        print(format % args, flush=True)

    # Plumbing

    def respond(self, body: Json, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status: int, message: str) -> None:
        kind = "invalid_request_error" if status < 500 else "unavailable_error"
        self.respond({"error": {"code": status, "message": message, "type": kind}}, status)

    def pause(self, seconds: float) -> None:
        """Waits, but not for somebody who is gone."""
        readable, _, _ = select.select([self.connection], [], [], seconds)
        if readable:
            if not self.connection.recv(1, socket.MSG_PEEK):
                raise ClientLeft
            time.sleep(seconds)  # the client's next request is there already: wait all the same

    def stream(self, events: Iterator[tuple[str | None, Json | str]]) -> None:
        """Server-sent events, each as soon as it is there; (None, data) has no `event:` line."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for name, data in events:
                text = data if isinstance(data, str) else json.dumps(data)
                frame = (f"event: {name}\n" if name else "") + f"data: {text}\n\n"
                raw = frame.encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(raw), raw))
            self.wfile.write(b"0\r\n\r\n")
        except (ClientLeft, ConnectionError):
            self.close_connection = True
            self.log_message("%s", "client left, stopped")

    def body(self) -> Json:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            raw = b"".join(self.chunks())
        else:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise BadBody(f"the body is not JSON: {error}") from None
        if not isinstance(body, dict):
            raise BadBody("the body is not a JSON object")
        return body

    def chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    # Routes

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if self.loading() and path != "/":
            self.refuse(503, "Loading model")
        elif path in ("/health", "/v1/health"):
            self.respond({"status": "ok"})
        elif path in ("/v1/models", "/models"):
            model = {"id": self.server.options.name, "object": "model", "created": 0, "owned_by": "llamaswap"}
            self.respond({"object": "list", "data": [model]})
        elif path == "/":
            self.respond({"model": self.server.options.name, "says": self.server.options.says})
        else:
            self.refuse(404, f"no such route: {path}")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        path = self.path.split("?")[0]
        route = ROUTES.get(path)
        try:
            body = self.body()
            if route is None:
                self.refuse(404, f"no such route: {path}")
            elif self.loading():
                self.refuse(503, "Loading model")
            else:
                route(self, body)
        except BadBody as error:
            self.refuse(400, str(error))

    def loading(self) -> bool:
        return self.server.ready_at > time.monotonic()

    def answer(self, body: Json, prompt: str, *limits: str) -> Answer:
        given = [body[name] for name in limits if body.get(name) is not None]
        if any(isinstance(n, bool) or not isinstance(n, int) for n in given):
            raise BadBody(f"{limits[0]} is not a number")
        # llama-server's -1 stands for no limit
        limit = given[0] if given and given[0] >= 0 else None
        return Answer(self.server.options.says, prompt, limit, self.server.options.words_per_s)

    def new_id(self, prefix: str) -> str:
        Handler._id += 1
        return f"{prefix}{os.getpid()}-{Handler._id}"

    def chat(self, body: Json) -> None:
        answer = self.answer(body, text_of(body.get("messages")), "max_completion_tokens", "max_tokens")
        self.speak(body, answer, "chat")

    def complete(self, body: Json) -> None:
        self.speak(body, self.answer(body, text_of(body.get("prompt")), "max_tokens"), "text")

    def speak(self, body: Json, answer: Answer, kind: str) -> None:
        """OpenAI's chat completion or text completion, whole or streamed."""
        chat, streamed = kind == "chat", bool(body.get("stream"))
        finish = "length" if answer.cut else "stop"
        head = {"id": self.new_id("cmpl-"), "created": answer.created, "model": self.model(body)}
        head["object"] = "text_completion" if not chat else f"chat.completion{'.chunk' if streamed else ''}"

        def choices(said: Json, reason: str | None = None) -> Json:
            content = said if not chat else {"delta" if streamed else "message": said}
            return {**head, "choices": [{"index": 0, **content, "logprobs": None, "finish_reason": reason}]}

        name = "content" if chat else "text"
        role = {"role": "assistant"} if chat else {}
        if not streamed:
            whole = choices({**role, name: answer.text}, finish)
            self.respond({**whole, "usage": answer.usage(), "timings": answer.timings()})
            return

        def events() -> Iterator[tuple[str | None, Json | str]]:
            if chat:
                yield None, choices({**role, name: ""})
            for piece in answer.pieces(self.pause):
                yield None, choices({name: piece})
            yield None, {**choices({} if chat else {name: ""}, finish), "timings": answer.timings()}
            if (body.get("stream_options") or {}).get("include_usage"):
                yield None, {**head, "choices": [], "usage": answer.usage()}
            yield None, "[DONE]"

        self.stream(events())

    def embed(self, body: Json) -> None:
        given = body.get("input", "")
        texts = given if isinstance(given, list) and not all(isinstance(x, int) for x in given) else [given]
        data = []
        for i, text in enumerate(texts):
            vector: Any = embedding(text if isinstance(text, str) else json.dumps(text))
            if body.get("encoding_format") == "base64":
                vector = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
            data.append({"object": "embedding", "index": i, "embedding": vector})
        count = sum(max(1, len(text_of(text).split())) for text in texts)
        usage = {"prompt_tokens": count, "total_tokens": count}
        self.respond({"object": "list", "model": self.model(body), "data": data, "usage": usage})

    def model(self, body: Json) -> str:
        return str(body.get("model") or self.server.options.name)

    def messages(self, body: Json) -> None:
        """The Anthropic API's /v1/messages."""
        answer = self.answer(body, text_of(body.get("messages")), "max_tokens")
        usage = {"input_tokens": answer.prompt_tokens, "output_tokens": 0}
        message: Json = {"id": self.new_id("msg_"), "type": "message", "role": "assistant", "content": []}
        message |= {"model": self.model(body), "stop_reason": None, "stop_sequence": None, "usage": usage}
        end = {"stop_reason": "max_tokens" if answer.cut else "end_turn", "stop_sequence": None}
        if not body.get("stream"):
            content = [{"type": "text", "text": answer.text}]
            self.respond({**message, **end, "content": content, "usage": answer.anthropic_usage()})
            return

        def event(kind: str, **data: Any) -> tuple[str, Json]:
            return kind, {"type": kind, **data}

        def events() -> Iterator[tuple[str | None, Json | str]]:
            yield event("message_start", message=message)
            yield event("content_block_start", index=0, content_block={"type": "text", "text": ""})
            for piece in answer.pieces(self.pause):
                yield event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
            yield event("content_block_stop", index=0)
            yield event("message_delta", delta=end, usage=answer.anthropic_usage())
            yield event("message_stop")

        self.stream(events())

    def count_tokens(self, body: Json) -> None:
        self.respond({"input_tokens": self.answer(body, text_of(body.get("messages"))).prompt_tokens})

    def response(self, body: Json) -> None:
        """The OpenAI API's /v1/responses, with one text in the answer."""
        answer = self.answer(body, text_of(body.get("input")), "max_output_tokens")
        part: Json = {"type": "output_text", "text": "", "annotations": []}
        item: Json = {"id": self.new_id("msg_"), "type": "message", "role": "assistant", "content": []}
        response: Json = {"id": self.new_id("resp_"), "object": "response", "created_at": answer.created}
        response |= {"model": self.model(body), "parallel_tool_calls": False, "tool_choice": "auto", "tools": []}
        full_part = {**part, "text": answer.text}
        full_item = {**item, "status": "completed", "content": [full_part]}
        cut = {"reason": "max_output_tokens"} if answer.cut else None
        done = {
            **response,
            "status": "incomplete" if cut else "completed",
            "incomplete_details": cut,
            "output": [full_item],
            "usage": {**answer.anthropic_usage(), "total_tokens": answer.usage()["total_tokens"]},
        }
        if not body.get("stream"):
            self.respond(done)
            return

        def events() -> Iterator[tuple[str | None, Json | str]]:
            at = {"output_index": 0, "item_id": item["id"], "content_index": 0}
            begun = {"status": "in_progress"}
            yield "response.created", {"response": {**response, **begun, "output": []}}
            yield "response.output_item.added", {"output_index": 0, "item": {**item, **begun}}
            yield "response.content_part.added", {**at, "part": part}
            for piece in answer.pieces(self.pause):
                yield "response.output_text.delta", {**at, "delta": piece, "logprobs": []}
            yield "response.output_text.done", {**at, "text": answer.text, "logprobs": []}
            yield "response.content_part.done", {**at, "part": full_part}
            yield "response.output_item.done", {"output_index": 0, "item": full_item}
            yield f"response.{done['status']}", {"response": done}

        def numbered() -> Iterator[tuple[str | None, Json | str]]:
            for number, (kind, data) in enumerate(events()):
                assert isinstance(data, dict)
                yield kind, {"type": kind, "sequence_number": number, **data}

        self.stream(numbered())


ROUTES: dict[str, Callable[[Handler, Json], None]] = {
    "/v1/chat/completions": Handler.chat,
    "/v1/completions": Handler.complete,
    "/v1/messages": Handler.messages,
    "/v1/messages/count_tokens": Handler.count_tokens,
    "/v1/responses": Handler.response,
    "/v1/embeddings": Handler.embed,
}


def main(argv: Sequence[str]) -> int:
    """Serves until it is told to stop; exit code 0, or 1 if it cannot listen."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--name", default="demo")
    parser.add_argument("--says", default="Hello from a stand-in model.", help="every answer, word by word")
    parser.add_argument("--load-s", type=float, default=0.0, help="seconds until it is ready")
    parser.add_argument("--words-per-s", type=float, default=12.0)
    options = parser.parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))  # nothing here is worth finishing
    try:
        server = Server((options.host, options.port), options)
    except OSError as error:
        print(f"cannot listen on {options.host}:{options.port}: {error.strerror}", file=sys.stderr)
        return 1
    print(f"listening on {options.host}:{server.server_port}, ready in {options.load_s:g} s", flush=True)
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
