"""Tokenizer files: copied as they are; tokenizer.json is required."""

from __future__ import annotations

import shutil
from pathlib import Path

from edge_runtime.base.errors import ConfigError
from hobbit_export.shards import read_json

REQUIRED = "tokenizer.json"
OPTIONAL = ("tokenizer_config.json", "generation_config.json", "special_tokens_map.json", "chat_template.jinja")
TEMPLATES = "additional_chat_templates"
_MAX_BYTES = 256 << 20


def tokenizer_files(checkpoint: Path) -> list[Path]:
    """Files to copy.

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
    return found


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


def name_in_bundle(path: Path) -> str:
    """Return where a file of the checkpoint lies in the bundle."""
    folder = f"{TEMPLATES}/" if path.parent.name == TEMPLATES else ""
    return f"tokenizer/{folder}{path.name}"


def copy_tokenizer(files: list[Path], out: Path) -> list[str]:
    """Copy files below folder `out` and return their names in the bundle."""
    names = [name_in_bundle(path) for path in files]
    for path, name in zip(files, names, strict=True):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, out / name)
    return names
