"""llama.cpp's own HTTP server, out of the xllamacpp wheel, as a process that a configuration can run.

usage: python llama_server.py --model FILE.gguf --port N [--embedding | --reranking]
"""

from __future__ import annotations

import argparse
import signal

import xllamacpp


def main() -> None:
    parser = argparse.ArgumentParser(description="llama.cpp's HTTP server")
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--embedding", action="store_true")
    kind.add_argument("--reranking", action="store_true")
    options = parser.parse_args()

    # Before the server's threads exist, so that none of them takes the signal.
    signals = [signal.SIGTERM, signal.SIGINT]
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.hostnames = ["127.0.0.1"]
    params.port = options.port
    params.n_parallel = 2
    params.n_ctx = 0 if options.embedding or options.reranking else 1 << 17  # shared out among the slots
    params.cpuparams.n_threads = 1
    params.endpoint_slots = True
    params.endpoint_props = True
    params.embedding = options.embedding or options.reranking
    if options.reranking:
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    server = xllamacpp.Server(params)
    print("listening on", server.listening_address, flush=True)
    print("stopped by signal", signal.sigwait(signals), flush=True)


if __name__ == "__main__":
    main()
