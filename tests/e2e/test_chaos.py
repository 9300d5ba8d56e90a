"""Many clients, five models, and everything goes wrong at once: every request still ends in order."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from harness import CHAT, Answer, Call, Stage, Wire, marked, request_bytes, stage, until

SEED = 20261121
CLIENTS, EACH = 30, 12
MODELS = {
    "left1": {"concurrencyLimit": 8},
    "left2": {"checkEndpoint": "none"},
    "right1": {},
    "right2": {"sendLoadingState": True},
    "always": {},
}
GROUPS = {
    "left": {"exclusive": False, "members": ["left1", "left2"]},
    "right": {"exclusive": False, "members": ["right1", "right2"]},
    "always": {"swap": False, "exclusive": False, "persistent": True, "members": ["always"]},
}
ENDS_S = 60.0  # for all of it
PAUSE_S = (0.02, 0.12)  # between two misfortunes
CODES = {429: {"concurrency_limit"}, 502: {"start_failed", "bad_gateway"}, 503: {"model_unloaded"}, 504: set()}


@dataclass
class Misfortunes:
    """Does to the models what the world does, and remembers when it did what to whom."""

    on: Stage
    dice: random.Random
    over: threading.Event = field(default_factory=threading.Event)
    done: list[tuple[float, str, str]] = field(default_factory=list)
    stopped: set[int] = field(default_factory=set)
    calls: list[Call] = field(default_factory=list)

    def run(self) -> None:
        ways = [self.kill, self.kill, self.freeze, self.freeze, self.refuse, self.unload, self.curse]
        while not self.over.wait(self.dice.uniform(*PAUSE_S)):
            self.dice.choice(ways)(self.dice.choice(list(MODELS)))
        for model in MODELS:
            self.on.script(model)
        for pid in list(self.stopped):
            self.end(pid)

    def note(self, what: str, model: str) -> None:
        self.done.append((time.monotonic(), what, model))

    def pid(self, model: str) -> int | None:
        return next((pid for pid in marked(str(self.on.home)) if pid in marked(f"--name\0{model}\0")), None)

    def send(self, pid: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def kill(self, model: str) -> None:
        pid = self.pid(model)
        if pid is not None:
            self.note("kill", model)
            self.send(pid, signal.SIGKILL)

    def freeze(self, model: str) -> None:
        """It hangs; after a while it goes on, or is killed."""
        pid = self.pid(model)
        if pid is None:
            return
        self.send(pid, signal.SIGSTOP)
        self.stopped.add(pid)
        threading.Timer(self.dice.uniform(0.1, 0.8), self.end, (pid, self.dice.random() < 0.5, model)).start()

    def end(self, pid: int, go_on: bool = True, model: str = "") -> None:
        if pid in self.stopped:
            self.stopped.discard(pid)
            if pid in self.on.processes():
                if not go_on:
                    self.note("kill", model)
                self.send(pid, signal.SIGCONT if go_on else signal.SIGKILL)

    def refuse(self, model: str) -> None:
        self.note("refuse", model)
        self.calls.append(Call(self.on.wire(), chat(model, then="refuse")))

    def unload(self, model: str) -> None:
        self.note("unload", model)
        self.calls.append(Call(self.on.wire(), request_bytes("POST", f"/api/models/unload/{model}")))

    def curse(self, model: str) -> None:
        """Its next starts crash now and then, or take their time."""
        share, after_s = self.dice.choice([(0.5, 0.0), (0.0, 0.3), (0.0, 0.0)])
        self.on.script(model, crash_share=share, bind_after_s=after_s)

    def struck(self, model: str, since: float, until: float) -> bool:
        """Whether a stream of this time had a reason to break; a request to refuse may have been long in the queue."""
        refused = [line["t"] for line in self.on.journal("refusing", model)]
        struck = [when for when, what, name in self.done if name == model and what != "refuse"]
        return any(since - 1 < when < until for when in refused + struck)


def chat(model: str, *, stream: bool = False, path: str = CHAT, **do: object) -> bytes:
    body = {"model": model, "input": "x" * 500, "do": do, **({"stream": True} if stream else {})}
    return request_bytes("POST", path, json.dumps(body).encode())


@dataclass
class Client:
    on: Stage
    world: Misfortunes
    dice: random.Random
    outcomes: Counter[str]
    wrong: list[str]

    def run(self) -> None:
        wire: Wire | None = None
        for number in range(EACH):
            wire = self.one(wire, number)
        if wire is not None:
            wire.close()

    def one(self, wire: Wire | None, number: int) -> Wire | None:
        """One request, on the kept connection if there is one; returns the connection if it can be kept."""
        dice, model = self.dice, self.dice.choice(list(MODELS))
        kind = dice.choice(["chat", "stream", "stream", "embeddings"])
        do = {"chunks": dice.randrange(1, 40), "gap_s": dice.choice([0, 0.005, 0.02])} if kind == "stream" else {}
        request = chat(model, stream=kind == "stream", path="/v1/embeddings" if kind == "embeddings" else CHAT, **do)
        begun = time.monotonic()
        if wire is None:
            wire = self.on.wire()
        if dice.random() < 0.25:
            call = Call(wire, request)
            self.world.over.wait(dice.uniform(0, 0.2))
            call.leave(dice.choice(["close", "reset"]))
            self.outcomes["left"] += 1
            return None
        answer = wire.ask(request)
        what = self.judge(answer, model, kind, do.get("chunks", 0), begun)
        if what.startswith("wrong"):
            self.wrong.append(f"{what}: {model} {kind} {do} after {time.monotonic() - begun:.2f} s: {answer}")
        self.outcomes[what.partition(":")[0]] += 1
        if answer.complete and answer.header("connection") != "close" and dice.random() < 0.7:
            return wire
        wire.close()
        return None

    def judge(self, answer: Answer, model: str, kind: str, chunks: float, begun: float) -> str:
        if answer.trouble == "timed out":
            return "wrong: it hangs"
        if not answer.status:
            return f"wrong: no answer at all ({answer.trouble})"
        if not answer.complete:
            struck = self.world.struck(model, begun, time.monotonic())
            return "broken" if answer.status == 200 and struck else "wrong: broken without a reason"
        if answer.status != 200:
            status, code = answer.refusal
            return f"{status} {code}" if code in CODES.get(status, ()) else f"wrong: {status} {code}"
        if kind != "stream":
            return "good" if answer.json["model"] == model else "wrong: another model"
        events = [line[6:] for line in answer.body.split(b"\n\n") if line]
        if any(b'"error"' in event for event in events[-1:]) and model == "right2":
            return "told in the loading stream"
        numbers = [json.loads(event)["n"] for event in events[:-1] if b'"n"' in event]
        if events[-1:] != [b"[DONE]"] or numbers != list(range(int(chunks))):
            return "wrong: an incomplete stream that looks complete"
        return "good" if f'"model": "{model}"'.encode() in events[-2] else "wrong: another model"


def test_every_request_ends_in_order(pyz: Path, tmp_path: Path) -> None:
    fifo = {"settings": {"fifo": {"maxWait": 2, "priority": {"left2": 1}}}}
    config = {"groups": GROUPS, "routing": {"scheduler": fifo}, "unloadTimeout": 1}
    with stage(pyz, tmp_path, MODELS, **config) as on:
        for model in MODELS:
            assert on.ask(model).status == 200
        on.unload()
        descriptors, threads = on.descriptors(), on.threads()
        begun = time.monotonic()
        world = Misfortunes(on, random.Random(SEED))
        outcomes: Counter[str] = Counter()
        wrong: list[str] = []
        clients = [Client(on, world, random.Random(SEED + n), outcomes, wrong) for n in range(CLIENTS)]
        workers = [threading.Thread(target=client.run, daemon=True) for client in clients]
        trouble = threading.Thread(target=world.run, daemon=True)
        for thread in (*workers, trouble):
            thread.start()
        for thread in workers:
            thread.join(max(0.0, begun + ENDS_S - time.monotonic()))
        world.over.set()
        trouble.join()
        assert not [thread for thread in workers if thread.is_alive()], f"not over: {outcomes} {wrong}"
        assert not wrong, "\n".join(wrong)
        assert sum(outcomes.values()) == CLIENTS * EACH
        assert outcomes["good"] > CLIENTS * EACH / 4, outcomes

        # Nothing is left of it: every model has all its places again, and gives way to its neighbours.
        for call in world.calls:
            assert call.wait().status, "these end as well"
        on.forget()
        on.unload()
        for model, settings in MODELS.items():
            held = [
                on.call(model, gate=f"{model} goes on", tag=model) for _ in range(settings.get("concurrencyLimit", 10))
            ]
            on.happens("request", model, count=len(held), tag=model)
            on.open(f"{model} goes on")
            assert [call.wait().status for call in held] == [200] * len(held)
        on.unload()
        assert on.running() == {} and on.processes() == []
        until(lambda: on.descriptors() <= descriptors, f"as few descriptors as before ({descriptors})")
        until(lambda: on.threads() <= threads + 2, f"as few threads as before ({threads})", timeout_s=30)
        print(f"{outcomes} in {time.monotonic() - begun:.1f} s; {Counter(what for _, what, _ in world.done)}")
