"""`logs`: what the server and its models have said, and what they say."""

from __future__ import annotations

import argparse
import sys

from llamaswap.commands.client import OK, CommandError, Server, model_path


def logs(options: argparse.Namespace) -> int:
    """Bytes as the server has them, colours of a model's own output included. Following ends with the server."""
    path = model_path("/logs/stream", options.LOG) if options.LOG else "/logs/stream"
    query = [] if options.follow else [("no-follow", "")]
    if options.lines is not None:
        query.append(("lines", str(options.lines)))
    with Server(options) as server, server.stream(path, query) as pieces:
        for piece in pieces:
            try:
                sys.stdout.buffer.write(piece)
                sys.stdout.buffer.flush()
            except BrokenPipeError:
                raise
            except OSError as error:  # not the connection's
                raise CommandError(f"cannot write the output: {error.strerror or error}") from error
    if options.follow:
        print("llamaswap: the server has ended the log", file=sys.stderr)
    return OK
