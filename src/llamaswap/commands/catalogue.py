"""The tables: the server's own flags, and the commands with theirs."""

from __future__ import annotations

from dataclasses import replace

from llamaswap.commands import activity, check, completion, logs, models
from llamaswap.commands.client import DEFAULT_SERVER
from llamaswap.commands.spec import Command, Flag, Word, number

DEFAULT_CONFIG = "config.yaml"
MOST_ROWS = 999  # what the server gives at once
MOST_LINES = 1_000_000  # more than a log remembers

SERVE = (
    Flag(("--config",), f"configuration file (default: {DEFAULT_CONFIG})", "FILE", "files"),
    Flag(
        ("--config-dir",),
        "directory of configuration files: every *.yaml and *.yml in it, by name, after --config if that is given",
        "DIR",
        "directories",
    ),
    Flag(
        ("--listen",),
        "host:port to listen on (default: 127.0.0.1:8080, with TLS 127.0.0.1:8443); :8080 is all interfaces",
        "ADDRESS",
    ),
    Flag(("--tls-cert-file",), "PEM certificate chain; serve HTTPS (needs --tls-key-file)", "FILE", "files"),
    Flag(("--tls-key-file",), "PEM private key of the certificate", "FILE", "files"),
    Flag(("--watch-config",), "reload when the configuration changes; SIGHUP always does"),
    Flag(("--demo",), "run without a configuration: two stand-in models to try swapping with"),
    Flag(("--version",), "print the version and exit"),
    Flag(("--help",), "print this and exit"),
)
"""The flags of the server itself. Each is understood with one dash as well, since llama-swap users type one, and
those without a value may be written `-watch-config=true`, since Go's flags may and scripts do."""

WHICH_SERVER = (
    Flag(("--server",), f"its address (default: LLAMASWAP_SERVER, else {DEFAULT_SERVER})", "URL"),
    Flag(
        ("--api-key-file",),
        "a file with the API key, - for standard input (default: LLAMASWAP_API_KEY). There is no flag for the key "
        "itself: other users of the machine can read the arguments of a process, and shells keep them",
        "FILE",
        "files",
    ),
    Flag(("--ca-file",), "PEM certificates to trust for https instead of the system's", "FILE", "files"),
    Flag(("--insecure",), "with https, do not check whose certificate it is"),
    Flag(
        ("--timeout",),
        "how long to wait for an answer (default: 10; load and unload take as long as they take)",
        "SECONDS",
        kind=number(1, 86400),
    ),
)

_JSON = Flag(("--json",), "the server's own JSON, for programs")
_QUIET = Flag(("-q", "--quiet"), "only the ids, one a line")

_ALL = (
    Command(
        "ps",
        "models that are loaded, loading, or waited for",
        models.ps,
        text="BUSY and QUEUED are requests; GPU is video memory; UP is how long it has been ready; UNLOADS IN\n"
        "counts down the ttl of an idle model.",
        examples=(("", ""), ("--json | jq '.models[].id'", "for programs")),
        flags=(_JSON, _QUIET),
        asks=True,
    ),
    Command(
        "models",
        "every model of the configuration, with its state and last error",
        models.models,
        examples=(("", ""), ("-q", "only the ids")),
        flags=(_JSON, _QUIET),
        asks=True,
    ),
    Command(
        "load",
        "load models, and wait until they are ready",
        models.load,
        text="Several are loaded one after the other. One may take the place of another, as the groups say: what is\n"
        "busy finishes first. Why a model does not start is told with its exit code and last output.",
        examples=(("qwen", ""), ("--no-wait qwen", "ask for it and return at once")),
        flags=(Flag(("--no-wait",), "return at once"), _JSON),
        words=(Word("MODEL", "an id or an alias", "some", "models"),),
        asks=True,
    ),
    Command(
        "unload",
        "unload models, and wait until they have stopped",
        models.unload,
        text="Requests in flight end with the model; a load under way is aborted.",
        examples=(("qwen", ""), ("--all", "")),
        flags=(Flag(("--all",), "all models"), _JSON),
        words=(Word("MODEL", "an id or an alias", "any", "loaded"),),
        asks=True,
    ),
    Command(
        "logs",
        "what the server and its models have said",
        logs.logs,
        examples=(
            ("", "everything that is remembered"),
            ("-f qwen", "a model's output, live"),
            ("-fn 0 proxy", "the server's own lines from now on"),
        ),
        flags=(
            Flag(("-f", "--follow"), "go on with what is said from now on, until Ctrl-C"),
            Flag(
                ("-n", "--lines"),
                "of what is remembered, only the last N lines",
                "N",
                kind=number(0, MOST_LINES),
            ),
        ),
        words=(Word("LOG", "proxy (the server's own lines), upstream (all models), or a model", "maybe", "logs"),),
        asks=True,
    ),
    Command(
        "activity",
        "requests that were served, with their tokens and times",
        activity.activity,
        text="WAITED is the time in the queue and for the model to load. The last request is at the bottom.",
        examples=(("--since 1h", ""), ("-n 5 --model qwen", "the last five of one model")),
        flags=(
            Flag(
                ("-n", "--lines"),
                f"how many, the latest (default: 25, at most {MOST_ROWS})",
                "N",
                kind=number(1, MOST_ROWS),
                default=25,
            ),
            Flag(("--model",), "only this model's; may be given several times", "MODEL", "models", repeats=True),
            Flag(("--since",), "only newer ones: 10m, 2h, 1d, or 2026-08-01T14:30", "AGE|TIME", kind=activity.since),
            _JSON,
        ),
        asks=True,
    ),
    Command(
        "check",
        "check a configuration and show the commands and ports it comes to",
        check.check,
        text="Needs no server. Every problem is told with its line; the exit status is 1 if there is any error.\n"
        "Warnings do not count. Commands are shown with their macros and ${env.…} filled in.",
        examples=(("config.yaml", ""), ("--json config.yaml | jq '.models[].port'", "")),
        flags=(
            Flag(("--config-dir",), "check the files in it together, as the server would", "DIR", "directories"),
            Flag(("--json",), "findings and models as JSON"),
        ),
        words=(Word("CONFIG", "the configuration file (default: " + DEFAULT_CONFIG + ")", "maybe", "files"),),
    ),
    Command(
        "schema",
        "print the JSON schema of configuration files, for editors",
        check.schema,
        examples=(("> config-schema.json", ""),),
    ),
    Command(
        "completion",
        "print the script that lets a shell complete commands, flags and models",
        completion.completion,
        text="Names of models come from the running server: LLAMASWAP_SERVER, or --server as typed so far.",
        examples=(
            ("bash > ~/.local/share/bash-completion/completions/llamaswap", ""),
            ("zsh > ~/.zfunc/_llamaswap", "(with ~/.zfunc in fpath, before compinit)"),
            ("fish > ~/.config/fish/completions/llamaswap.fish", ""),
        ),
        words=(Word("SHELL", "whose", choices=("bash", "zsh", "fish")),),
    ),
)

COMMANDS: dict[str, Command] = {
    command.name: replace(command, shared=WHICH_SERVER) if command.asks else command for command in _ALL
}
