"""Token counts and speeds from the ends of an answer: OpenAI, Anthropic, llama.cpp and vLLM write them there.

Pure. Nothing is parsed but the few objects that matter, found from the end: an answer may be megabytes of
embeddings, and this runs for every request. Formats: OpenAI's `usage` (chat, completions, responses, embeddings),
Anthropic's `usage` (input in the first event, output in the last), llama-server's `timings`, vLLM's `metrics`
(`--per-request-spec-decode-metrics`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Annotated, Any, cast

import msgspec
from msgspec.structs import replace

from llamaswap.observe.answer import Finished, body, dechunk
from llamaswap.observe.flights import HEAD_BYTES, TAIL_BYTES
from llamaswap.observe.rows import NO_TOKENS, UNKNOWN, Tokens
from llamaswap.relay.complaint import error_of, stream_error

WHOLE_BYTES = 65536  # of an answer that is read as a whole: its text is only skipped
NEAR_END_BYTES = 4096  # where they stand in all but the largest last events
OBJECT_BYTES = 16384  # the longest of them
TRIES = 16  # `"usage": null` in this many of the last events
MOST = 2**53  # beyond, a number is no count

Found = dict[str, Any]

NOTHING: Found = {}

_OPENS = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*(?=\{)")
_DATA_LINES = re.compile(r"\r?\n *data: ?")
_COUNTS = frozenset(("prompt_tokens", "input_tokens", "completion_tokens", "output_tokens", "total_tokens"))
_TIMINGS = frozenset(("prompt_n", "predicted_n", "predicted_per_second"))
_ALL_COUNTS = frozenset(("prompt_n", "predicted_n", "cache_n"))
_METRICS = frozenset(("time_to_first_token_ms", "mean_itl_ms", "speculative_decoding"))
_decode = json.JSONDecoder().raw_decode


_Count = Annotated[int, msgspec.Meta(ge=0, lt=MOST)]
_Speed = Annotated[float, msgspec.Meta(ge=0, lt=MOST)]


class _Details(msgspec.Struct, gc=False):
    cached_tokens: _Count = UNKNOWN


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: _Count = UNKNOWN
    input_tokens: _Count = UNKNOWN
    completion_tokens: _Count = UNKNOWN
    output_tokens: _Count = UNKNOWN
    total_tokens: _Count = UNKNOWN
    cache_read_input_tokens: _Count = UNKNOWN
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None


class _Timings(msgspec.Struct, gc=False):
    prompt_n: _Count = UNKNOWN
    predicted_n: _Count = UNKNOWN
    cache_n: _Count = UNKNOWN
    draft_n: _Count = UNKNOWN
    draft_n_accepted: _Count = UNKNOWN
    prompt_per_second: _Speed = UNKNOWN
    predicted_per_second: _Speed = UNKNOWN


class _Reply(msgspec.Struct, gc=False):
    """What is read of an answer, or of one event of a stream; all else is only checked to be JSON."""

    usage: _Usage | None = None
    timings: _Timings | None = None
    metrics: None = None


# A third less than Tokens(...), for every request there is.
_tokens = cast("Callable[[type[Tokens], tuple[float, ...]], Tokens]", tuple.__new__)
_reply = msgspec.json.Decoder(_Reply).decode


class _Split(Exception):
    """Framing runs through an object."""


def read(answer: Finished) -> tuple[Tokens, str]:
    """What `answer` says of its tokens, and what went wrong: its status, or an error within a stream. Never raises."""
    kept = answer.kept
    framed = answer.encoding or answer.chunked or answer.tail
    plain = answer.status == 200 and not framed and answer.content_type.startswith("application/json")
    if plain and type(kept) is bytes and len(kept) <= WHOLE_BYTES:  # like most: one object of JSON, in one piece
        told = _told(kept)
        return (told if told is not None else _found(kept[-NEAR_END_BYTES:], answer)), ""
    return _read(answer)


def _read(answer: Finished) -> tuple[Tokens, str]:
    if not 200 <= answer.status < 400:
        return NO_TOKENS, error_of(answer)
    if "json" not in answer.content_type and "event-stream" not in answer.content_type:
        return NO_TOKENS, ""
    if answer.encoding not in ("", "identity"):
        decoded = None if answer.tail else body(answer)
        if decoded is None:
            return NO_TOKENS, ""
        answer = replace(answer, kept=decoded, chunked=False)
    near = answer.end(NEAR_END_BYTES)
    error = stream_error(near, answer) if "event-stream" in answer.content_type else ""
    told = _last_told(near, answer)
    return (told if told is not None else _found(near, answer)), error


def _found(near: bytes, answer: Finished) -> Tokens:
    """Of any answer, searched for and summed up with care."""
    found = _searched(near, answer)
    if found is None:
        # llama-server puts the usage of embeddings before the embeddings.
        first = _beginning(answer.head[:HEAD_BYTES], answer.chunked)
        return _summed(first, NOTHING, NOTHING) if first else NO_TOKENS
    usage, timings, metrics = found
    if "output_tokens" in usage and not _count(usage.get("input_tokens")) > 0:
        # Anthropic's streams tell the input in their first event.
        first = _beginning(answer.head[:HEAD_BYTES], answer.chunked)
        usage = {key: value for key, value in usage.items() if value} | {"output_tokens": usage["output_tokens"]}
        usage = first | usage
    return _summed(usage, timings, metrics)


def _last_told(near: bytes, answer: Finished) -> Tokens | None:
    """What an answer like most tells: one object of JSON, or a stream that says all in one event. None if it has to be
    searched, and summed up with care."""
    if not (answer.chunked or answer.tail or "event-stream" in answer.content_type):
        return _told(answer.head) if answer.kept_bytes <= WHOLE_BYTES else None
    usage_at, timings_at = near.rfind(b'"usage"'), near.rfind(b'"timings"')
    at = max(usage_at, timings_at)
    begin = near.rfind(b"data:", 0, at) if at > 0 else -1
    end = near.find(b"\n", at)
    if begin < 0 or end < 0 or 0 <= min(usage_at, timings_at) < begin or b'"metrics"' in near:
        return None
    return _told(near[begin + 5 : end], usage_at >= 0, timings_at >= 0)


def _told(data: bytes, has_usage: bool = False, has_timings: bool = False) -> Tokens | None:
    """Of one object of JSON, nothing odd among its numbers; else None. `has_...`: whether there is one, here or within
    or before."""
    try:
        reply = _reply(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    usage, timings = reply.usage, reply.timings
    count = made = cached = drafted = accepted = UNKNOWN
    prompt_speed: float = UNKNOWN
    speed: float = UNKNOWN
    if usage is not None:
        count, made, cached = usage.prompt_tokens, usage.completion_tokens, usage.cache_read_input_tokens
        if count < 0:
            count = usage.input_tokens
        if usage.output_tokens >= 0:
            if usage.input_tokens <= 0:
                return None  # a stream whose beginning tells the input
            made = usage.output_tokens if made < 0 else made
        total = usage.total_tokens
        if made < 0 <= total:
            # Embeddings and rerankings make none; some of them tell the total alone.
            count = total if count < 0 else count
            made = max(0, total - count)
        if cached < 0 and usage.prompt_tokens_details is not None:
            cached = usage.prompt_tokens_details.cached_tokens
        if cached < 0 and usage.input_tokens_details is not None:
            cached = usage.input_tokens_details.cached_tokens
    elif has_usage:
        return None  # others, before or within, may have it
    if timings is not None:
        if timings.prompt_n < 0 or timings.predicted_n < 0:
            return None
        count, made = timings.prompt_n, timings.predicted_n
        if timings.cache_n >= 0:
            cached = timings.cache_n
        if timings.draft_n >= 0 and timings.draft_n_accepted >= 0:
            drafted, accepted = timings.draft_n, timings.draft_n_accepted
        prompt_speed, speed = timings.prompt_per_second or UNKNOWN, timings.predicted_per_second or UNKNOWN
    elif has_timings or (made < 0 and count < 0):
        return None
    return _tokens(Tokens, (cached, drafted, accepted, count, made, prompt_speed, speed))


def _searched(near: bytes, answer: Finished) -> tuple[Found, Found, Found] | None:
    """The same of any answer, looked for where they are likely; None if there is none of them."""
    chunked = answer.chunked
    tail = near
    try:
        found = _lasts(near, chunked)
        if found is None and len(near) == NEAR_END_BYTES:
            tail = answer.end(TAIL_BYTES)
            found = _lasts(tail, chunked)
        if found is not None or not chunked:
            return found
        # There is no whole key in it, but perhaps one that framing runs through.
        end = tail[-2 * NEAR_END_BYTES :]
        if _by_events(end):
            return None
    except _Split:
        end = answer.end(TAIL_BYTES)
    whole = not answer.tail and len(end) == answer.kept_bytes
    plain = dechunk(end, from_start=whole) or dechunk(end, from_start=False)
    return _lasts(plain, False) if plain else None


def _lasts(data: bytes, chunked: bool) -> tuple[Found, Found, Found] | None:
    """Raises _Split."""
    timings = _last(data, b'"timings"', _TIMINGS, chunked)
    usage = NOTHING if timings.keys() >= _ALL_COUNTS else _last(data, b'"usage"', _COUNTS, chunked)
    metrics = _last(data, b'"metrics"', _METRICS, chunked)
    return (usage, timings, metrics) if timings or usage or metrics else None


def _beginning(data: bytes, chunked: bool) -> Found:
    """The first usage of a body's beginning; empty if there is none."""
    at = data.find(b'"usage"')
    try:
        while at >= 0:
            usage = _object(data, at + 7, _COUNTS, chunked)
            if usage:
                return usage
            at = data.find(b'"usage"', at + 7)
    except _Split:
        pass
    return _beginning(dechunk(data) or b"", False) if chunked and not _by_events(data) else NOTHING


def _by_events(data: bytes) -> bool:
    """Whether every chunk begins with an event, as upstreams write them: then no key is cut in two.

    A chunk has two line ends of its framing; the last, empty one and one cut by the beginning have at most three.
    """
    events = data.count(b"\r\ndata:") + data.count(b"\r\nevent:")
    return events > 0 and data.count(b"\r\n") <= 2 * events + 3


def _last(data: bytes, key: bytes, wanted: frozenset[str], chunked: bool) -> Found:
    """The last object that `key` names and that has one of the `wanted` numbers; empty if there is none.

    A key cannot be mistaken for text: within a JSON string its quotes would be escaped.
    """
    before = len(data)
    for _ in range(TRIES):
        before = data.rfind(key, 0, before)
        if before < 0:
            break
        found = _object(data, before + len(key), wanted, chunked)
        if found:
            return found
    return NOTHING


def _object(data: bytes, after_key: int, wanted: frozenset[str], chunked: bool) -> Found:
    """The object after a key, if it has one of the `wanted` keys; else an empty one. Raises _Split."""
    begin = after_key + 1
    if data[after_key : after_key + 2] != b":{":
        opens = _OPENS.match(data, after_key)
        if opens is None:
            return NOTHING
        begin = opens.end()
    # As latin-1, so that places in the text are places in the bytes; there are only numbers to read.
    text = data[begin : begin + OBJECT_BYTES].decode("latin-1")
    try:
        value, length = _decode(text)
    except (ValueError, RecursionError):
        if chunked:
            raise _Split from None
        try:
            # An event's JSON may be spread over several lines, each with its own prefix.
            value, length = _decode(_DATA_LINES.sub("\n", text))
        except (ValueError, RecursionError):
            return NOTHING
    if chunked and data.find(b"\r\n", after_key, begin + length) >= 0:
        raise _Split
    return value if isinstance(value, dict) and not wanted.isdisjoint(value) else NOTHING


def _count(value: object) -> int:
    """A count; UNKNOWN unless it is a number from zero on."""
    if type(value) is int or type(value) is float:
        return int(value) if 0 <= value < MOST else UNKNOWN
    return UNKNOWN


def _positive(value: object) -> float:
    """A speed or a time; UNKNOWN unless it is a number above zero."""
    if type(value) is float or type(value) is int:
        return float(value) if 0 < value < MOST else UNKNOWN
    return UNKNOWN


def _summed(usage: Found, timings: Found, metrics: Found) -> Tokens:
    """One account of what the upstream tells in up to three places."""
    count = made = cached = drafted = accepted = UNKNOWN
    prompt_speed: float = UNKNOWN
    speed: float = UNKNOWN
    if usage:
        count = _count(usage.get("prompt_tokens", usage.get("input_tokens")))
        made = _count(usage.get("completion_tokens", usage.get("output_tokens")))
        cached = _cached(usage)
        total = _count(usage.get("total_tokens"))
        if made < 0 and total >= 0:
            # Embeddings and rerankings make none; some of them tell the total alone.
            count = total if count < 0 else count
            made = max(0, total - count)
    if timings:
        # llama-server measured it; `usage` also counts the prompt's cached tokens.
        get = timings.get
        if "prompt_n" in timings:
            count = _count(get("prompt_n"))
        if "predicted_n" in timings:
            made = _count(get("predicted_n"))
        if "cache_n" in timings:
            cached = _count(get("cache_n"))
        if "draft_n" in timings and "draft_n_accepted" in timings:
            drafted, accepted = _count(get("draft_n")), _count(get("draft_n_accepted"))
        prompt_speed, speed = _positive(get("prompt_per_second")), _positive(get("predicted_per_second"))
    if metrics:
        # vLLM tells times, not speeds.
        first_ms, between_ms = _positive(metrics.get("time_to_first_token_ms")), _positive(metrics.get("mean_itl_ms"))
        computed = count - max(0, cached)
        if first_ms > 0 and computed > 0:
            prompt_speed = computed * 1000 / first_ms
        if between_ms > 0:
            speed = 1000 / between_ms
        drafts = metrics.get("speculative_decoding")
        if isinstance(drafts, dict) and "num_draft_tokens" in drafts:
            drafted = _count(drafts["num_draft_tokens"])
            accepted = _count(drafts.get("num_accepted_draft_tokens"))
    return Tokens(cached, drafted, accepted, count, made, prompt_speed, speed)


def _cached(usage: Found) -> int:
    if "cache_read_input_tokens" in usage:
        return _count(usage["cache_read_input_tokens"])
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    return _count(details.get("cached_tokens")) if isinstance(details, dict) else UNKNOWN
