"""Tokenizer files: copied as they are; tokenizer.json is required."""

from __future__ import annotations

import shutil
from pathlib import Path

from edge_runtime.base.errors import ConfigError

REQUIRED = "tokenizer.json"
OPTIONAL = ("tokenizer_config.json", "generation_config.json", "chat_template.jinja")
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
    for path in found:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path.name}: expected at most {_MAX_BYTES} bytes, got {path.stat().st_size}.")
    return found


def copy_tokenizer(files: list[Path], out: Path) -> list[str]:
    """Copy files below folder `out` and return their names in the bundle."""
    (out / "tokenizer").mkdir(parents=True)
    for path in files:
        shutil.copyfile(path, out / "tokenizer" / path.name)
    return [f"tokenizer/{path.name}" for path in files]
