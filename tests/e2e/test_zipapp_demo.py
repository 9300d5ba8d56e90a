"""`llamaswap.pyz --demo`, as a newcomer meets it: no file, two models, swapping."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
from pathlib import Path
from typing import Any

import zipapp_runner

TIMEOUT_S = 30


def ask(server: zipapp_runner.Running, model: str, **more: Any) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT_S)
    body = {"model": model, "messages": [{"role": "user", "content": "Who are you?"}], **more}
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    response = connection.getresponse()
    answer = response.read().decode()
    connection.close()
    assert response.status == 200, answer
    return answer


def running(server: zipapp_runner.Running) -> dict[str, Any]:
    return {row["model"]: row for row in json.loads(server.get("/running")[1])["running"]}


def test_two_models_take_turns(pyz: Path, tmp_path: Path) -> None:
    """From a directory with a space in its name, unpacked into another."""
    home = tmp_path / "my programs"
    home.mkdir()
    program = home / "llamaswap.pyz"
    shutil.copy(pyz, program)
    with zipapp_runner.running(program, tmp_path, "--demo", SHIV_ROOT=str(tmp_path / "shiv root")) as server:
        listed = json.loads(server.get("/v1/models")[1])["data"]
        assert [model["id"] for model in listed] == ["demo-fast", "demo-slow-loader"]
        answer = json.loads(ask(server, "demo-fast"))
        assert "demo-fast" in answer["choices"][0]["message"]["content"]
        assert list(running(server)) == ["demo-fast"]
        streamed = ask(server, "slow", stream=True)
        assert "loading" in streamed and streamed.rstrip().endswith("data: [DONE]")
        assert list(running(server)) == ["demo-slow-loader"]
        port = int(running(server)["demo-slow-loader"]["proxy"].rsplit(":", 1)[1])
        assert server.stop() == 0
        said = server.log.read_text()
        assert f"{server.url}/v1/chat/completions" in said and "Ctrl-C" in said
        with socket.socket() as probe:  # the model has gone with the server
            assert probe.connect_ex(("127.0.0.1", port)) != 0
