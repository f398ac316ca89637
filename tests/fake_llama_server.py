#!/usr/bin/env python3
"""Stands in for llama.cpp's server in tests of benchmarks/compare: the same options, answers and timings, no model.

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
        "predicted_ms": STEP_MS * (predicted - 1), "predicted_per_token_ms": STEP_MS,
        "predicted_per_second": 1e3 / STEP_MS,
    }  # fmt: skip


def answer(prompt: int, predicted: int) -> dict:
    """The whole answer."""
    return {"index": 0, "content": " w" * predicted, "tokens": list(range(predicted)), "id_slot": 0, "stop": True,
            "model": "m.gguf", "tokens_predicted": predicted, "tokens_evaluated": prompt, "truncated": False,
            "stop_type": "limit", "tokens_cached": prompt + predicted - 1, "timings": timings(prompt, predicted)}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"status":"ok"}')

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
        run = 1 if body["cache_prompt"] else len(body["prompt"])
        self.wfile.write(json.dumps(answer(run, body["n_predict"])).encode())

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
