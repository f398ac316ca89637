"""Licences of libraries, as their metadata says, and which of them an installation by default may contain.

What a library says is taken at its whole word: an SPDX expression is parsed; anything else has to be a name known here,
letter for letter. A new spelling is refused until somebody has read what it means.
"""

from __future__ import annotations

import re
from email.message import Message

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

PERMITTED = frozenset({
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "HPND", "ISC", "MIT", "MIT-0", "MIT-CMU",
    "MPL-2.0", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib",
})  # fmt: skip
"""Licences by SPDX that ask for no more than their text to be passed on; MPL-2.0 keeps to its own files."""
NAMES = frozenset(name.lower() for name in (
    "Apache 2.0", "Apache License 2.0", "Apache License, Version 2.0", "Apache Software License",
    "3-Clause BSD License", "BSD", "BSD 2-Clause", "BSD 3-Clause", "BSD License", "Modified BSD License",
    "New BSD License",
    "CC0 1.0 Universal (CC0 1.0) Public Domain Dedication", "Historical Permission Notice and Disclaimer (HPND)",
    "ISC License", "ISC License (ISCL)", "MIT License", "The MIT License", "Mozilla Public License 2.0 (MPL 2.0)",
    "PSF", "Python Software Foundation License", "The Unlicense (Unlicense)", "zlib/libpng License",
))  # fmt: skip
"""The same where it is written as classifiers and free fields do."""


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
    """Whether a library under this licence may come along without being asked for.

    Every licence that applies has to be permitted; of those that an expression offers (OR) one is enough.
    """
    try:
        words = re.findall(r"[()]|[^\s()]+", canonicalize_license_expression(licence))
    except InvalidLicenseExpression:
        return all(_is_known(part.strip()) for part in licence.split(" AND "))
    permitted = _any_of(words)
    assert not words, words
    return permitted


def _is_known(name: str) -> bool:
    return name.lower() in NAMES or name in PERMITTED


def _any_of(words: list[str]) -> bool:
    """Read alternatives off the front of a valid expression."""
    found = _all_of(words)
    while words[:1] == ["OR"]:
        words.pop(0)
        found = _all_of(words) or found
    return found


def _all_of(words: list[str]) -> bool:
    """Read what AND joins, which binds closer than OR."""
    found = _one(words)
    while words[:1] == ["AND"]:
        words.pop(0)
        found = _one(words) and found
    return found


def _one(words: list[str]) -> bool:
    """Read one licence, or an expression in brackets. An exception (WITH) only permits more."""
    if words[0] == "(":
        words.pop(0)
        found = _any_of(words)
        words.pop(0)
        return found
    found = words.pop(0) in PERMITTED
    if words[:1] == ["WITH"]:
        del words[:2]
    return found
