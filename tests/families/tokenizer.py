"""The tokenizer of every random checkpoint: ids 0..255 are bytes, 256 ends."""

from __future__ import annotations

import json
from pathlib import Path

EOS = 256


def write_tokenizer(out: Path) -> None:
    """Write a byte-level tokenizer without merges: token i is byte i, token 256 is ``<|end|>``."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = _byte_letters()
    tokenizer = Tokenizer(models.BPE(vocab={letters[i]: i for i in range(256)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True, normalized=False)])
    tokenizer.save(str(out / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "model_max_length": 1024}
    (out / "tokenizer_config.json").write_text(json.dumps(config))


def _byte_letters() -> list[str]:
    """Return the printable letter GPT-2's byte-level alphabet uses for each byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    other = [b for b in range(256) if b not in printable]
    return [chr(b) if b in printable else chr(256 + other.index(b)) for b in range(256)]
