"""Long streaming requests to the service on a booted machine, each in a thread of its own."""

from __future__ import annotations

import http.client
import json
import threading

LONG = 400
"""Tokens: seconds of decoding, within the context that the tests set."""


class Stream(threading.Thread):
    """A long streaming request in a thread of its own."""

    def __init__(self, service, max_tokens=LONG):
        super().__init__()
        self.service, self.max_tokens = service, max_tokens
        self.events, self.error, self.begun = [], None, threading.Event()
        self.start()
        assert self.begun.wait(60), self.error

    def run(self):
        body = self.service.body("def", self.max_tokens, stream=True, ignore_eos=True)
        try:
            with self.service.open("/v1/completions", body) as answer:
                for line in answer:
                    if line.startswith(b"data: "):
                        self.events.append(line[6:].strip())
                        self.begun.set()
        except (OSError, http.client.HTTPException) as err:
            self.error = err
        finally:
            self.begun.set()

    def tokens_until_the_end(self):
        """Wait; return the number of chunks of an answer that must be whole."""
        self.join(120)
        assert self.error is None
        assert self.events[-1] == b"[DONE]"
        reasons = [c["finish_reason"] for e in self.events[:-1] for c in json.loads(e)["choices"]]
        assert reasons[-1] == "length"
        return len(reasons)
