"""Nothing that is a secret is shown, and what is none stays readable."""

from __future__ import annotations

import json
from textwrap import dedent

import pytest
from hanging import must_end

from llamaswap.config import Config, Source, loads
from llamaswap.config.effective import effective
from llamaswap.config.redact import REDACTED, Redactor, is_secret_name

FILE = """\
    # before: --api-key sk-forgotten
    apiKeys:
      - sk-first
      - "${env.KEY}"   # a reference tells nothing
    macros:
      hf_token: hf-macro
      bin: server
    models:
      a:
        cmd: |
          ${bin} --port ${PORT} --api-key sk-cmd --hf-token=${hf_token}
          -H "Authorization: Bearer sk-bearer" --max-tokens 100 --key-count 5 --token-limit 7
        env:
          - OPENAI_API_KEY=sk-env
          - "DB_PASSWORD=sk env"
          - CUDA_VISIBLE_DEVICES=0
        metadata: {password: sk-meta, monkey: 1}
        filters: {setParams: {max_tokens: 50, api_key: sk-filter}}
      b:
        cmd: ${bin} --port ${PORT} --bearer sk-first
    """
SECRETS = ("sk-", "hf-macro", "from-env", "sk env")


def load(text: str) -> tuple[str, Config, Redactor]:
    text = dedent(text)
    config = loads(text, environ={"KEY": "from-env"})
    return text, config, Redactor([Source("f", text)], config)


def test_the_effective_configuration_shows_no_secret() -> None:
    _, config, redactor = load(FILE)
    shown = redactor.value(effective(config))
    text = json.dumps(shown)
    assert not [secret for secret in SECRETS if secret in text]
    assert shown["apiKeys"] == [REDACTED, REDACTED]
    a = shown["models"]["a"]
    assert a["cmd"].split("\n")[:2] == [
        f"server --port 5800 --api-key {REDACTED} --hf-token={REDACTED}",
        f'-H "Authorization: Bearer {REDACTED}" --max-tokens 100 --key-count 5 --token-limit 7',
    ]
    assert a["env"] == [f"OPENAI_API_KEY={REDACTED}", f"DB_PASSWORD={REDACTED}", "CUDA_VISIBLE_DEVICES=0"]
    assert a["metadata"] == {"password": REDACTED, "monkey": 1}
    assert a["filters"]["setParams"] == {"max_tokens": 50, "api_key": REDACTED}
    assert shown["models"]["b"]["cmd"] == f"server --port 5801 --bearer {REDACTED}"


def test_what_the_environment_holds_under_the_name_of_a_secret_is_one_wherever_it_is_put() -> None:
    text = "models: {a: {cmd: 'server ${env.HF_TOKEN} ${env.WHERE} --port ${PORT}'}}"
    environ = {"HF_TOKEN": "hf-from-env", "WHERE": "/models"}
    config = loads(text, environ=environ)
    shown = Redactor([Source("f", text)], config, environ).value(effective(config))
    assert shown["models"]["a"]["cmd"] == f"server {REDACTED} /models --port 5800"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("proxy: http://me:hush@box:8080/v1", f"proxy: http://me:{REDACTED}@box:8080/v1"),
        ('env: ["HTTPS_PROXY=http://:hush@box"]', f'env: ["HTTPS_PROXY=http://:{REDACTED}@box"]'),
        ("proxy: http://box:8080/a@b", "proxy: http://box:8080/a@b"),
        ("proxy: http://${env.WHO}:${env.HUSH}@box", "proxy: http://${env.WHO}:${env.HUSH}@box"),
    ],
)
def test_passwords_in_addresses(text: str, shown: str) -> None:
    assert Redactor([], Config()).text(text) == shown


def test_nor_does_the_file_and_its_lines_stay_where_they_are() -> None:
    text, _, redactor = load(FILE)
    shown = redactor.text(text)
    assert not [secret for secret in SECRETS if secret in shown]
    assert shown.count("\n") == text.count("\n")
    kept = [line for line in text.split("\n") if not any(secret in line for secret in SECRETS)]
    assert [line for line in shown.split("\n") if REDACTED not in line] == kept
    assert "${env.KEY}" in shown and "${hf_token}" in shown and "CUDA_VISIBLE_DEVICES=0" in shown


@pytest.mark.parametrize(
    "bad",
    [
        "apiKeys:\n- sk-new\n- 'sk-two'\nmodels: [\n",
        "apiKeys: [sk-new, \nmodels: {a: \n",
        "apiKeys: [\n  sk-new,\n  sk-two\n]\n\tx: 1\n",
        "macros:\n  my_token: sk-new\n  x: [\n",
        "macros:\n  my_secret: |\n    sk-new\n    sk-two\n  x: [\n",
        'a: "--api-key sk-new"\nb: [\n',
    ],
)
def test_a_file_that_cannot_be_read_is_no_way_around_it(bad: str) -> None:
    shown = Redactor([Source("f", bad)], Config()).text(bad)
    assert "sk-" not in shown and REDACTED in shown
    assert shown.count("\n") == bad.count("\n")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("API_KEY=${prefix}-hush", f"API_KEY={REDACTED}"),
        ("--token=x${prefix}hush", f"--token={REDACTED}"),
        ("--token=${env.A}${env.B}", "--token=${env.A}${env.B}"),
        ('"TOKEN=${env.A}"', '"TOKEN=${env.A}"'),
        ('token: "${env.A}hush"', f'token: "{REDACTED}"'),
        ("api_keys: [${env.A}hush, ${env.B}]", f"api_keys: [{REDACTED}, ${{env.B}}]"),
        ("DB_PASS=hush GITHUB_PAT=hush", f"DB_PASS={REDACTED} GITHUB_PAT={REDACTED}"),
        ("auth: hush", f"auth: {REDACTED}"),
        ("run --db-pass hush --path /x --bypass 3", f"run --db-pass {REDACTED} --path /x --bypass 3"),
        ("hf_key: hush", f"hf_key: {REDACTED}"),
        ("- accessKey: 'hush' # mine", f"- accessKey: '{REDACTED}' # mine"),
        ("my_secret: &it hush", f"my_secret: {REDACTED} {REDACTED}"),
        ("use_key: true", "use_key: true"),
        ("private_key: ${env.KEY}", "private_key: ${env.KEY}"),
        (
            "AWS_SECRET_ACCESS_KEY=hush run --signing-key hush",
            f"AWS_SECRET_ACCESS_KEY={REDACTED} run --signing-key {REDACTED}",
        ),
        (
            'curl -H "Authorization: hush" -H "Cookie: sid=hush; b=hush" x',
            f'curl -H "Authorization: {REDACTED}" -H "Cookie: {REDACTED}" x',
        ),
        (r'--config "{\"api_key\": \"hush\", \"n\": 1}"', rf'--config "{{\"api_key\": \"{REDACTED}\", \"n\": 1}}"'),
        ("token: 'it''s hush'", f"token: '{REDACTED}'"),
        ("https://me:a@hush@box/x@y", f"https://me:{REDACTED}@box/x@y"),
        ("apiKeys:\n  # - hush\n  # for all\n  - hush\n", f"apiKeys:\n  # - {REDACTED}\n  # for all\n  - {REDACTED}\n"),
        (
            "--eos-token 5 --override-kv tokenizer.ggml.add_bos_token=bool:false",
            "--eos-token 5 --override-kv tokenizer.ggml.add_bos_token=bool:false",
        ),
        ("# the second pass 3, author: me, path: /x", "# the second pass 3, author: me, path: /x"),
    ],
)
def test_what_follows_a_name(text: str, shown: str) -> None:
    assert Redactor([], Config()).text(text) == shown


@pytest.mark.parametrize(
    "piece", ["${", "$", "{", "a-", "key", "token ", '\\"', "'", '"', "Bearer ", "://a:", "-", "# - ", "\n- "]
)
def test_no_text_takes_long(piece: str) -> None:
    """In work, that is: each of a hundred thousand characters is looked at a few times."""
    for text in (f"token={piece * 120_000}", f"apiKeys: [{piece * 120_000}", piece * 120_000):
        with must_end():
            shown = Redactor([], Config()).text(text)
        assert shown.count("\n") == text.count("\n")


def test_a_known_secret_that_is_the_beginning_of_another() -> None:
    redactor = Redactor([], Config(api_keys=("sk-first",)))
    assert redactor.text("TOKEN=sk-first-more 'sk-first'") == f"TOKEN={REDACTED} '{REDACTED}'"


@pytest.mark.parametrize("name", ["apiKey", "api_key", "API-KEY", "HF_TOKEN", "--hf-token", "password", "DB_PASSWD",
    "client_secret", "Authorization", "my.token", "AWS_SECRET_ACCESS_KEY", "hfToken", "apiKeys",
    "SMTP_PASS", "GITHUB_PAT", "AUTH", "pwd", "Proxy-Authorization"])  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["max_tokens", "monkey", "keyboard", "tokenizer", "key_count", "PATH", "secretary", "ttl", "bypass", "author"],
)
def test_names_of_other_things(name: str) -> None:
    assert not is_secret_name(name)


def test_an_effective_configuration_can_be_read_again() -> None:
    """Its keys are those of the file."""
    _, config, _ = load(FILE)
    shown = effective(config)
    for model in shown["models"].values():
        assert model.pop("port") and model.pop("capabilities") is None
    again = loads(json.dumps(shown), environ={})
    assert {warning.key.split(".")[0] for warning in again.warnings} == {"store"}  # limits of a file there is none of
    assert effective(again)["models"].keys() == shown["models"].keys()
    assert again.api_keys == config.api_keys and again.performance == config.performance and again.store == config.store
