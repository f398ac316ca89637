"""Tokens to text as they come: whole characters only, and nothing that belongs to a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from edge_runtime.engine.tokenizer import Tokenizer

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
_CONTEXT_TOKENS = 4
_MAX_WINDOW = 8


class IncrementalDecoder:
    """Turns tokens into text as they come; joined, the parts are what the tokenizer decodes from all tokens.

    Each step decodes a short window and emits what is new in it. Two kinds of text may still change and are held back:

    - the last character, while the bytes of the window end inside a character;
    - a run of byte tokens (``<0xE4>`` and its like), which decoders join: it is text if the whole run is valid UTF-8,
      and replacement characters if not, so nothing of it is certain before the run ends.

    The window starts anew only where neither is open.

    Args:
        tokenizer: the model's.
        context: tokens before the text, such as the prompt; they are not emitted. Without them decoders that strip a
            leading space would take the first word for the start of the text.
        skip_special_tokens: leave out tokens that are not text.
    """

    def __init__(self, tokenizer: Tokenizer, *, context: Sequence[int] = (), skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._skipped = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._bytes = tokenizer.byte_ids
        self._window = self._tail_of(context)
        self._emitted = _certain(self._decode()) if self._window else ""

    def push(self, token_id: int) -> str:
        """Add a token; return the text that is certain now, possibly empty."""
        if token_id in self._skipped:
            return ""
        self._window.append(token_id)
        if token_id in self._bytes:
            return ""
        text = self._decode()
        certain = _certain(text)
        new = certain[len(self._emitted) :]
        self._emitted = max(self._emitted, certain, key=len)
        self._restart(is_whole=certain == text)
        return new

    def flush(self) -> str:
        """Return what is still held back, incomplete bytes shown as replacement characters."""
        new = self._decode()[len(self._emitted) :] if self._window else ""
        self._window, self._emitted = [], ""
        return new

    def _decode(self) -> str:
        return self._tokenizer.decode(self._window, skip_special_tokens=self._skip)

    def _restart(self, *, is_whole: bool) -> None:
        """Shorten the window where that changes no later text."""
        last = self._tokenizer.decode(self._window[-1:], skip_special_tokens=self._skip)
        if is_whole and last.strip():  # a space alone could be stripped as the start of a text
            self._window, self._emitted = self._window[-1:], last
        elif not self._bytes and len(self._window) > _MAX_WINDOW:
            # broken bytes without end: a decoder of UTF-8 is in step again after three bytes, wherever it starts
            self._window = self._window[-_CONTEXT_TOKENS:]
            text = self._decode()
            self._emitted = text if is_whole else _certain(text)

    def _tail_of(self, context: Sequence[int]) -> list[int]:
        """The end of the context that later text depends on: a run of byte tokens as a whole, and what is before it."""
        kept = [token for token in context if token not in self._skipped]
        start = len(kept)
        while start > 0 and kept[start - 1] in self._bytes:
            start -= 1
        return kept[max(start - _CONTEXT_TOKENS, 0) :]


def _certain(text: str) -> str:
    """The text less a last character whose bytes may go on."""
    return text[:-1] if text.endswith(_INCOMPLETE) else text


def starts_of(spans: Sequence[tuple[int, int]]) -> list[int]:
    """Return where in a text each of its tokens begins, none before the one before it; see `Tokenizer.spans`.

    A space that the tokenizer counts to no token belongs to the token behind it.
    """
    found, start, end = [], 0, 0
    for first, last in spans:
        start = max(start, min(first, end)) if first < last else end
        end = max(end, last)
        found.append(start)
    return found


def decode_apart(tokenizer: Tokenizer, token_ids: Sequence[int]) -> tuple[str, list[int]]:
    """Return the text of tokens, and where in it each of them begins: what was certain before it."""
    decoder, parts, starts, length = IncrementalDecoder(tokenizer), [], [], 0
    for token in token_ids:
        starts.append(length)
        parts.append(decoder.push(token))
        length += len(parts[-1])
    return "".join(parts) + decoder.flush(), starts


class StopStrings:
    """Holds text back as long as it could be the start of a stop string, and cuts at the first one found.

    Special tokens are hidden text: a stop string may match it, and nobody is shown it.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self._hidden: list[tuple[int, int]] = []  # what of the text held back is not shown, in order
        self.stopped = False

    def push(self, text: str, *, is_hidden: bool = False) -> str:
        """Add new text; return what may be shown. After `stopped` nothing more comes out."""
        if self.stopped or not self._stops:
            return "" if self.stopped or is_hidden else text
        if is_hidden:
            self._hidden.append((len(self._held), len(self._held) + len(text)))
        self._held += text
        found = [at for at in (self._held.find(s) for s in self._stops) if at >= 0]
        if found:
            self.stopped = True
            out, self._held = self._take(min(found)), ""
            return out
        keep = max(_overlap(self._held, s) for s in self._stops)
        return self._take(len(self._held) - keep)

    def flush(self) -> str:
        """Return what is held back once no more text will come."""
        return "" if self.stopped else self._take(len(self._held))

    def _take(self, size: int) -> str:
        """Remove the first characters of what is held back; return those that are shown."""
        shown, at = "", 0
        for start, end in self._hidden:
            shown += self._held[at : min(max(start, at), size)]
            at = min(max(end, at), size)
        shown += self._held[at:size]
        self._held = self._held[size:]
        self._hidden = [(max(start - size, 0), end - size) for start, end in self._hidden if end > size]
        return shown


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of text that starts `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
