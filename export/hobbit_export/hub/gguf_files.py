"""GGUF files of a repository on a hub: the one that a name gives, with the other splits of its model."""

from __future__ import annotations

from dataclasses import replace

from edge_runtime.base.errors import ConfigError, did_you_mean
from hobbit_export.gguf.files import SPLIT, SUFFIX
from hobbit_export.hub.listing import Listing

_SHOWN = 12


def with_splits(listing: Listing, path: str) -> Listing:
    """Return the part of a repository that is one GGUF model; its files lose the name of their folder.

    Raises:
        ConfigError: there is no such file.
    """
    if path not in listing.files:
        raise ConfigError(f"{listing}: there is no {path}.{did_you_mean(path, listing.files)} {gguf_files(listing)}")
    folder, _, name = path.rpartition("/")
    split = SPLIT.fullmatch(name)
    files = {}
    for each, file in listing.files.items():
        beside, _, bare = each.rpartition("/")
        other = SPLIT.fullmatch(bare)
        same = split and other and (split["prefix"], split["count"]) == (other["prefix"], other["count"])
        if beside == folder and (bare == name or same):
            files[bare] = file
    return replace(listing, files=files)


def gguf_files(listing: Listing) -> str:
    """Say which GGUF files there are, of several splits the first; "" if there are none."""
    names = sorted(n for n in listing.files if n.endswith(SUFFIX) and _is_first(n))
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"Its GGUF files are given as {listing.repo}:FILE, FILE being {', '.join(names[:_SHOWN])}{more}."


def _is_first(path: str) -> bool:
    split = SPLIT.fullmatch(path)
    return split is None or int(split["number"]) == 1
