#!/usr/bin/env python3
"""Stands in for llama.cpp's server in tests of benchmarks/compare: the same options, events and timings, no model.

What it prints and sends was recorded from a build of August 2026 (token texts and numbers made up here).
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

HELP = """\
-h,    --help, --usage                  print usage and exit
-t,    --threads N                      number of CPU threads to use during generation (default: -1)
-tb,   --threads-batch N                number of threads to use during batch and prompt processing
-c,    --ctx-size N                     size of the prompt context (default: 0, 0 = loaded from model)
--repack, -nr, --no-repack              whether to enable weight repacking (default: enabled)
-lm,   --load-mode MODE                 model loading mode (default: auto)
                                        - auto: mmap, unless a device does not support it
                                        - none: no special loading mode
                                        - mmap: memory-map model
                                        - dio: use DirectIO if available
--no-warmup                             skip warming up the model with an empty run
-fit,  --fit [on|off]                   whether to adjust unset arguments to fit in device memory
-cram, --cache-ram N                    set the maximum cache size in MiB
--slots, --no-slots                     expose slots monitoring endpoint (default: enabled)
"""
STEP_MS, PROMPT_MS = 20.0, 640.0


def timings(prompt: int, predicted: int) -> dict:
    return {
        "cache_n": 0, "prompt_n": prompt, "prompt_ms": PROMPT_MS, "prompt_per_token_ms": PROMPT_MS / prompt,
        "prompt_per_second": 1e3 * prompt / PROMPT_MS, "predicted_n": predicted,
        "predicted_ms": STEP_MS * (predicted - 1) + 0.002, "predicted_per_token_ms": STEP_MS,
        "predicted_per_second": 1e3 / STEP_MS,
    }  # fmt: skip


def event_lines(prompt: int, predicted: int) -> list[bytes]:
    """Lines of the whole answer."""
    found = []
    for n in range(1, predicted + 1):
        event = {"index": 0, "content": f" w{n}", "tokens": [n], "stop": False, "id_slot": 0, "tokens_predicted": n,
                 "tokens_evaluated": prompt, "timings": timings(prompt, n)}  # fmt: skip
        found += [b"data: " + json.dumps(event).encode() + b"\n", b"\n"]
    last = {"index": 0, "content": "", "tokens": [], "id_slot": 0, "stop": True, "model": "m.gguf",
            "tokens_predicted": predicted, "tokens_evaluated": prompt, "truncated": False, "stop_type": "limit",
            "tokens_cached": prompt + predicted - 1, "timings": timings(prompt, predicted)}  # fmt: skip
    return [*found, b"data: " + json.dumps(last).encode() + b"\n", b"\n"]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"status":"ok"}')

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for line in event_lines(len(body["prompt"]), body["n_predict"]):
            self.wfile.write(line)

    def log_message(self, *args: object) -> None:
        pass


def main() -> None:
    if "--help" in sys.argv:
        print(HELP)
    elif "--version" in sys.argv:
        print("version: 7912 (0a1b2c3d4)\nbuilt with GNU 12.2.0 for Linux x86_64", file=sys.stderr)
    elif "--load-mode" in sys.argv and sys.argv[sys.argv.index("--load-mode") + 1] == "dio":
        sys.exit("error: failed to allocate buffer")
    else:
        port = int(sys.argv[sys.argv.index("--port") + 1])
        HTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
