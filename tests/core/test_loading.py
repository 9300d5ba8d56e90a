import json

import pytest

from llamaswap.errors import StartFailed
from llamaswap.relay.loading import REMARK_EVERY_TICKS, REMARKS, RULE, TICK_S, LoadingFrames, frame


def events(data: bytes) -> list[dict[str, object]]:
    """The JSON of each event; fails if the bytes are anything but whole `data:` events."""
    assert data.endswith(b"\n\n")
    found = []
    for event in data[:-2].split(b"\n\n"):
        assert event.startswith(b"data: ") and b"\n" not in event and b"\r" not in event
        found.append(json.loads(event[6:]))
    return found


def shown(data: bytes) -> str:
    """What a client shows as reasoning."""
    text = ""
    for event in events(data) if data else []:
        assert list(event) == ["choices"]
        [choice] = event["choices"]  # type: ignore[misc]
        assert list(choice) == ["delta"] and list(choice["delta"]) == ["reasoning_content"]
        text += choice["delta"]["reasoning_content"]
    return text


def test_a_frame_is_one_event_byte_for_byte() -> None:
    assert frame(".") == b'data: {"choices":[{"delta":{"reasoning_content":"."}}]}\n\n'
    assert "größe\n" in shown(frame("größe\n"))


def test_a_load_from_start_to_end_reads_as_a_transcript() -> None:
    frames = LoadingFrames("qwen")
    data = frames.opening()
    for tick in range(3):
        data += frames.tick(0, tick * TICK_S)
    data += frames.done(1.2345)
    assert shown(data) == f"{RULE}\nllama-swap loading model: qwen\n...\nDone! (1.23s)\n{RULE}\n\n"


def test_a_dot_per_tick_is_a_frame_of_its_own() -> None:
    frames = LoadingFrames("qwen")
    frames.opening()
    assert [shown(frames.tick(0, 1.0)) for _ in range(3)] == [".", ".", "."]


def test_the_queue_position_is_told_when_it_changes() -> None:
    frames = LoadingFrames("qwen")
    frames.opening()
    said = [shown(frames.tick(position, 1.0)) for position in (3, 3, 2, 2, 1, 0, 0)]
    assert said == [
        "Queue position: #3\n",
        ".",
        "\nQueue position: #2\n",
        ".",
        "\nQueue position: #1\n",
        ".",
        ".",
    ]


def test_the_opening_may_tell_the_position() -> None:
    frames = LoadingFrames("qwen")
    assert shown(frames.opening(2)).endswith("loading model: qwen\nQueue position: #2\n")
    assert shown(frames.tick(2, 0.75)) == "."


def test_remarks_come_now_and_then_and_none_twice_in_a_row() -> None:
    frames = LoadingFrames("qwen")
    frames.opening()
    said = [shown(frames.tick(0, n * TICK_S)) for n in range(1, REMARK_EVERY_TICKS * len(REMARKS) + 1)]
    remarks = [text for text in said if text != "."]
    assert said[REMARK_EVERY_TICKS - 1] == remarks[0]
    assert remarks[0].startswith("\n[6s] ") and remarks[0].endswith("\n")
    assert {text.split("] ", 1)[1].rstrip("\n") for text in remarks} == set(REMARKS)


def test_done_without_a_dot_leaves_no_empty_line() -> None:
    frames = LoadingFrames("qwen")
    assert shown(frames.opening() + frames.done(0.3)) == (
        f"{RULE}\nllama-swap loading model: qwen\nDone! (0.30s)\n{RULE}\n\n"
    )


@pytest.mark.parametrize("name", ['a"b\\c', "模型", "line\nbreak", "\u2028", "\udc80"])
def test_any_name_makes_valid_events(name: str) -> None:
    frames = LoadingFrames(name)
    assert name in shown(frames.opening())
    frames.tick(1, 0.75)


def test_an_error_is_an_event_with_the_envelope() -> None:
    [event] = events(LoadingFrames.failed(StartFailed('exit code 1\nlast line: "ü"\udcff')))
    assert event["src"] == "llama-swap"
    assert event["error"] == {
        "message": 'exit code 1\nlast line: "ü"\udcff',
        "type": "server_error",
        "param": None,
        "code": "start_failed",
    }
