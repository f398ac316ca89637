"""Tokenizer files: copied as they are; tokenizer.json is required."""

from __future__ import annotations

import shutil
from pathlib import Path

from edge_runtime.base.errors import ConfigError

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
