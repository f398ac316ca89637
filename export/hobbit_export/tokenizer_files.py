"""Tokenizer files: copied as they are; tokenizer.json is required."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.base.errors import ConfigError
from hobbit_export.ceiling import need_memory
from hobbit_export.shards import read_json

REQUIRED = "tokenizer.json"
OPTIONAL = ("tokenizer_config.json", "generation_config.json", "special_tokens_map.json", "chat_template.jinja")
TEMPLATES = "additional_chat_templates"
_MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class TokenizerFile:
    """One file of a tokenizer: of the checkpoint, or made from what the source says.

    Attributes:
        name: as checkpoints have it, below their folder.
        path: where it is.
        content: its bytes, where it is nowhere.
    """

    name: str
    path: Path | None = None
    content: bytes = b""

    @property
    def in_bundle(self) -> str:
        """Where it lies in the bundle."""
        return f"tokenizer/{self.name}"

    @property
    def num_bytes(self) -> int:
        """Its size."""
        return len(self.content) if self.path is None else self.path.stat().st_size

    def read(self) -> bytes:
        """Return all of it.

        Raises:
            BudgetError: it might not fit under the ceiling.
        """
        if self.path is None:
            return self.content
        need_memory(self.num_bytes, self.name)
        return self.path.read_bytes()

    def write(self, out: Path) -> None:
        """Write it below folder `out`, under its name in the bundle."""
        target = out / self.in_bundle
        target.parent.mkdir(parents=True, exist_ok=True)
        if self.path is None:
            target.write_bytes(self.content)
        else:
            shutil.copyfile(self.path, target)


def tokenizer_files(checkpoint: Path) -> list[TokenizerFile]:
    """Files of a folder to copy.

    Raises:
        ConfigError: tokenizer.json is missing (with the command that makes it), or a file is absurdly large.
    """
    if not (checkpoint / REQUIRED).is_file():
        raise ConfigError(
            f"{checkpoint.name}: {REQUIRED}: expected a fast tokenizer, found none. "
            "Make one where transformers is installed: "
            f"AutoTokenizer.from_pretrained({str(checkpoint)!r}).save_pretrained({str(checkpoint)!r})"
        )
    found = [checkpoint / name for name in (REQUIRED, *OPTIONAL) if (checkpoint / name).is_file()]
    found += sorted(path for path in (checkpoint / TEMPLATES).glob("*.jinja") if path.is_file())
    for path in found:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path.name}: expected at most {_MAX_BYTES} bytes, got {path.stat().st_size}.")
    return [TokenizerFile(path.relative_to(checkpoint).as_posix(), path) for path in found]


def eos_token_id(checkpoint: Path) -> int | None:
    """Return the token by which the tokenizer ends a text, if tokenizer_config.json says which number it has.

    Where it does not, the runtime finds it: it has the vocabulary loaded anyway.
    """
    path = checkpoint / "tokenizer_config.json"
    config = read_json(path) if path.is_file() else {}
    named, added = config.get("eos_token"), config.get("added_tokens_decoder")
    text = named.get("content") if isinstance(named, dict) else named
    for number, token in added.items() if isinstance(added, dict) else ():
        if text is not None and isinstance(token, dict) and token.get("content") == text and number.isdecimal():
            return int(number)
    return None
