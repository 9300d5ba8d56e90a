"""The express lane against the way in that has none: the same requests get the same answers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import trio
from fakefleet import World, a_world
from upstreams import GONE, Connection, Response, Server, chat

from llamaswap.config.settings import Filters, Group

CLIENTS, REQUESTS = 5, 200  # each
LIMIT_S = 60.0
TOGETHER = {"g": Group("g", swap=False, members=("a", "b"))}
MODELS: dict[str, dict[str, Any]] = {
    "a": {"aliases": ("alias",)},
    "b": {"use_model_name": "real", "filters": Filters(set_params={"seed": 1})},
}
PATHS = ["/v1/chat/completions", "/v1/embeddings", "/v/chat/completions", "/infill", "/v1/completions?x=%41"]
KEPT = {"content-type", "x-n", "x-accel-buffering", "etag", "last-modified"}
KEY = "k"
HOW = ["plain"] * 4 + ["stream"] * 4 + ["interim", "204", "404", "close", "end", "old", "behind", "drop"]


@dataclass
class Asked:
    """One request, and all that the upstream's answer follows from."""

    path: str
    headers: list[tuple[str, str]]
    body: bytes


def some_requests(seed: int) -> Iterator[Asked]:
    rng = random.Random(seed)
    for number in range(REQUESTS):
        headers = [("Authorization", f"Bearer {KEY if rng.random() < 0.95 else 'no'}")]
        if rng.random() < 0.2:
            headers.append(("X-A", str(rng.randrange(3))))
        model = rng.choice(["a", "a", "b", "b", "alias", "nobody"] if rng.random() < 0.3 else ["a", "b"])
        how = rng.choice(
            ["plain"] * 4 + ["stream"] * 4 + ["interim", "204", "404", "close", "end", "old", "behind", "drop"]
        )
        size = rng.choice([0, 1, 100, 1000, 5000, 70000, 200000] if rng.random() < 0.2 else [1, 10, 100, 1000])
        padding = "p" * (rng.randrange(100000) if rng.random() < 0.05 else rng.randrange(300))
        body = chat(model, how=how, size=size, seed=rng.randrange(1 << 30), padding=padding, n=(seed, number))
        if rng.random() < 0.03:
            body = body[: rng.randrange(len(body))]
        yield Asked(rng.choice(PATHS), headers, body)


def answer_to(wanted: dict[str, Any], rng: random.Random) -> bytes:
    """The bytes of an upstream's answer."""
    how, body = wanted["how"], rng.randbytes(wanted["size"])
    fields = [f"X-N: {wanted['n']}", "Content-Type: " + rng.choice(["application/json", "text/event-stream", "a/b"])]
    if rng.random() < 0.7:
        fields.append(f"Date: Sun, 06 Nov 1994 08:49:{rng.randrange(10, 60)} GMT")
    if rng.random() < 0.2:
        fields.insert(0, f"Last-Modified: Sun, 06 Nov 1994 08:49:{rng.randrange(10, 60)} GMT")
    rng.shuffle(fields)
    status, version = (
        {"204": "204 No Content", "404": "404 Not Found"}.get(how, "200 OK"),
        "1.0" if how == "old" else "1.1",
    )
    if how == "close":
        fields.append("Connection: close")
    chunks = how == "stream" or (how in ("close", "interim") and rng.random() < 0.5)
    if chunks:
        fields.append("Transfer-Encoding: chunked")
        out, rest = b"", body
        while rest:
            cut = rng.randrange(1, 4000)
            out += b"%x\r\n%b\r\n" % (len(rest[:cut]), rest[:cut])
            rest = rest[cut:]
        body = out + b"0\r\n\r\n"
    elif how == "204":
        body = b""
    elif how not in ("end", "old"):
        fields.append(f"Content-Length: {len(body)}")
    if how == "behind":
        body += b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    head = "\r\n".join([f"HTTP/{version} {status}", *fields, "", ""]).encode()
    return (b"HTTP/1.1 103 Early Hints\r\n\r\n" if how == "interim" else b"") + head + body


async def serve(up: Connection, seen: dict[str, bytes]) -> None:
    """Answer as asked, in pieces; a request with `drop` gets none the first time it comes by a used connection."""
    used = False
    try:
        while up.buffer or await up.readable():
            request = await up.request()
            wanted = request.json
            rng = random.Random(wanted["seed"])
            if wanted["how"] == "drop" and used:
                break
            used = True
            seen[str(wanted["n"])] = request.body
            raw = answer_to(wanted, rng)
            cuts = sorted(rng.randrange(len(raw)) for _ in range(rng.choice([0, 0, 0, 1, 3])))
            for begin, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
                await up.send(raw[begin:end])
                await trio.lowlevel.checkpoint()
            if wanted["how"] in ("end", "old"):
                break
    except GONE:
        return
    finally:
        up.close()


async def results(door: str) -> tuple[list[Any], dict[str, bytes], World]:
    """What every client got for every request, and what the upstreams received."""
    got: list[Any] = []
    seen: dict[str, bytes] = {}
    settings = {"groups": TOGETHER, "api_keys": (KEY,), "limit_s": LIMIT_S}
    async with a_world(door, MODELS, **settings) as world, trio.open_nursery() as nursery:

        async def accept(server: Server) -> None:
            while True:
                nursery.start_soon(serve, await server.accept(), seen)

        async def talk(seed: int) -> None:
            client = await world.h1()
            for asked in some_requests(seed):
                await client.request("POST", asked.path, asked.headers, asked.body)
                got.append((seed, asked.path, asked.body[:200], *essence(await client.response())))

        for server in world.ups.values():
            nursery.start_soon(accept, server)
        async with trio.open_nursery() as talkers:
            for seed in range(CLIENTS):
                talkers.start_soon(talk, seed)
        nursery.cancel_scope.cancel()
    return sorted(got), seen, world


def essence(response: Response) -> tuple[int, list[tuple[str, str]], bytes]:
    """What must be the same whoever serves it."""
    fields = sorted((name.lower(), value) for name, value in response.headers if name.lower() in KEPT)
    return response.status, fields, response.body


async def test_random_requests() -> None:
    by_lane, at_models, world = await results("front")
    without, at_models_too, other = await results("asgi")
    assert len(by_lane) == len(without) == CLIENTS * REQUESTS
    for one, two in zip(by_lane, without, strict=True):
        assert one == two
    assert at_models == at_models_too
    assert len(world.rides) > CLIENTS * REQUESTS / 4
    assert not other.rides
