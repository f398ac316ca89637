"""Licences of libraries, as their metadata says, and which of them an installation by default may contain."""

from __future__ import annotations

import re
from email.message import Message

PERMITTED = (
    "Apache", "MIT", "BSD", "ISC", "PSF", "Python Software Foundation", "MPL", "Mozilla Public License 2.0", "Zlib",
    "Unlicense", "Public Domain", "HPND", "CC0", "0BSD",
)  # fmt: skip
"""Words of licences that ask for no more than their text to be passed on; MPL-2.0 keeps to its own files."""
FORBIDDEN = re.compile(r"\b(A?GPL|LGPL|Affero|proprietary|NVIDIA)", re.IGNORECASE)


def licence_of(metadata: Message) -> str:
    """Return a library's licence: its expression, else its field, else its classifiers."""
    licence = str(metadata.get("License-Expression") or "").strip()
    field = str(metadata.get("License") or "").strip()
    classes = [str(line) for line in metadata.get_all("Classifier", []) if str(line).startswith("License ::")]
    named = " AND ".join(line.split(" :: ")[-1] for line in classes if not line.endswith("OSI Approved"))
    if not licence and "\n" not in field and is_permitted(field):  # some say "Dual License" there, and which below
        licence = field
    first = re.sub(r"\s+", " ", field[:200]).partition(". ")[0][:60]
    return licence or named or first or "not stated"


def is_permitted(licence: str) -> bool:
    """Whether a library under this licence may come along without being asked for."""
    return FORBIDDEN.search(licence) is None and any(word.lower() in licence.lower() for word in PERMITTED)
