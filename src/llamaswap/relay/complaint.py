"""What an answer says went wrong: a failed one's body, or the error within a stream.

Pure. Formats: OpenAI's and llama.cpp's `error`, Anthropic's error event, FastAPI's `detail`, the `error:` line of older
llama.cpp.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from llamaswap.observe.answer import Finished, body, dechunk
from llamaswap.observe.entry import ERROR_CHARS

ERROR_BYTES = 65536  # of an error's body


def error_of(answer: Finished) -> str:
    """The message of an error's body, else the status in words."""
    if answer.kept and not answer.tail:
        data = body(answer)
        if data and len(data) <= ERROR_BYTES:
            try:
                message = message_of(json.loads(data))
            except (ValueError, RecursionError):
                is_text = answer.content_type.startswith("text/plain")
                message = data[: 4 * ERROR_CHARS].decode("utf-8", "replace").strip() if is_text else ""
            if message:
                return message[:ERROR_CHARS].encode("utf-8", "backslashreplace").decode()
    try:
        return f"{answer.status} {HTTPStatus(answer.status).phrase}"
    except ValueError:
        return f"HTTP {answer.status}" if answer.status else ""


def stream_error(near: bytes, answer: Finished) -> str:
    """The error that a stream ends with: its status was out before there was one."""
    last = near.rfind(b"\ndata: {")
    if near.find(b"\n", last + 1) < 0:
        last = 0  # it was cut, the one before counts
    if near.find(b"error", max(0, last)) < 0:
        return ""  # nobody's chunks end within the word
    if answer.chunked:
        whole = not answer.tail and len(near) == answer.kept_bytes
        near = dechunk(near, from_start=whole) or dechunk(near, from_start=False) or near
    for line in reversed(near.splitlines()):
        if not line.startswith((b"data:", b"error:")):
            continue
        kind, _, data = line.partition(b":")
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            continue  # [DONE], or a line that was cut
        if kind == b"data" and not (isinstance(value, dict) and value.get("error")):
            return ""
        message = message_of(value)[:ERROR_CHARS].encode("utf-8", "backslashreplace").decode()
        return message or "the stream ended with an error"
    return ""


def message_of(value: Any) -> str:
    """What an error's object says in words; empty if nothing."""
    if not isinstance(value, dict):
        return ""
    error, detail = value.get("error"), value.get("detail")
    if isinstance(detail, list) and detail:
        detail = detail[0].get("msg") if isinstance(detail[0], dict) else detail[0]  # FastAPI's list of them
    candidates = [error.get("message") if isinstance(error, dict) else error, value.get("message"), detail]
    return next((text.strip() for text in candidates if isinstance(text, str) and text.strip()), "")
