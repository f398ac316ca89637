"""Opens a model by name: its small files first, then whatever its weights are read from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from edge_runtime.base.errors import ConfigError
from edge_runtime.base.extras import install_extra
from hobbit_export.arch.decoder import GENERATION
from hobbit_export.hub.failures import patiently
from hobbit_export.hub.files import HubFiles
from hobbit_export.hub.gguf_files import gguf_files, with_splits
from hobbit_export.hub.listing import HubFile, Listing, list_model
from hobbit_export.hub.name import HubName, hub_name
from hobbit_export.options import ExportOptions
from hobbit_export.shards import INDEX
from hobbit_export.tokenizer_files import OPTIONAL, REQUIRED, TEMPLATES

_SMALL = {"config.json", GENERATION, INDEX, REQUIRED, *OPTIONAL}
_MOST_SMALL_BYTES = 256 << 20
_FEW_TRIES = 2
"""Of a function that tries five times itself."""
_WEIGHTS = ".safetensors"


def by_name(options: ExportOptions, keep_source: Path | None) -> ExportOptions:
    """Return options that say where a model is, if they name one on a hub; else as they are.

    Args:
        options: of the export.
        keep_source: folder to download the whole checkpoint to; None: only what is needed, when it is needed.

    Raises:
        ConfigError: there is no such model, or no access to it; or --keep-source without a name.
        HubError: the hub does not answer.
        BundleError: a downloaded file is not the one that the hub lists.
    """
    name = hub_name(str(options.checkpoint))
    if name is None:
        if keep_source is not None:
            raise ConfigError(f"--keep-source: {options.checkpoint} is not the name of a model on a hub. Leave it out.")
        return options
    try:
        from huggingface_hub import constants
    except ImportError as err:
        raise ConfigError(f"{name}: models by name need huggingface_hub. {install_extra('export')}") from err
    if constants.HF_HUB_OFFLINE:
        return replace(options, checkpoint=_offline(name), source_name=str(name))
    listing = list_model(name)
    if name.file is not None:
        return _gguf(options, with_splits(listing, name.file), name.file, keep_source)
    named = replace(options, source_name=str(listing))
    if keep_source is not None:
        return replace(named, checkpoint=_download(listing, _wanted(listing, weights=True), keep_source))
    folder = _download(listing, _wanted(listing, weights=False), None)
    return replace(named, checkpoint=folder, files=HubFiles(listing, folder))


def _gguf(options: ExportOptions, listing: Listing, path: str, keep_source: Path | None) -> ExportOptions:
    """Return options for a GGUF file, whose header has everything that is needed first."""
    named, file = replace(options, source_name=f"{listing}:{path}"), path.rpartition("/")[2]
    if keep_source is not None:
        _download(listing, listing.files.values(), keep_source)
        return replace(named, checkpoint=keep_source / path)
    folder = Path(str(listing))  # of no file on this machine
    return replace(named, checkpoint=folder / file, files=HubFiles(listing, folder))


def _wanted(listing: Listing, *, weights: bool) -> list[HubFile]:
    """Files an export reads whole.

    Raises:
        ConfigError: there is no config.json, or a file is absurdly large.
    """
    if "config.json" not in listing.files:
        raise ConfigError(
            f"{listing}: expected a model of transformers, found no config.json in it. {gguf_files(listing)}"
        )
    small = [
        file
        for name, file in listing.files.items()
        if name in _SMALL or (name.startswith(f"{TEMPLATES}/") and name.endswith(".jinja"))
    ]
    for file in small:
        if file.size > _MOST_SMALL_BYTES:
            raise ConfigError(f"{listing}: {file.name}: expected at most {_MOST_SMALL_BYTES} bytes, got {file.size}.")
    large = [file for name, file in listing.files.items() if name.endswith(_WEIGHTS) and "/" not in name]
    return small + large if weights else small


def _download(listing: Listing, files: Iterable[HubFile], folder: Path | None) -> Path:
    """Download whole files, to a folder or into the hub's own cache, check their digests, and return where they are."""
    from huggingface_hub import constants, hf_hub_download

    found = Path()
    for file in files:
        path = Path(
            patiently(
                f"{listing.repo}: {file.name}",
                lambda name=file.name: hf_hub_download(  # type: ignore[misc]
                    listing.repo,
                    name,
                    revision=listing.commit,
                    local_dir=folder,
                    library_name="hobbit-edge",
                    endpoint=constants.ENDPOINT,
                ),
                _FEW_TRIES,
            )
        )
        file.check(path)
        if file.name == "config.json":
            found = path.parent
    return found


def _offline(name: HubName) -> Path:
    """Return the folder of a model, or the file, in the hub's cache."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name.repo, revision=name.revision, local_files_only=True)) / (name.file or "")
    except Exception as err:  # this function's errors have no common base, and differ between its versions
        raise ConfigError(
            f"{name}: HF_HUB_OFFLINE is set, and the hub's cache on this machine does not hold it. "
            "Unset it, or give a folder."
        ) from err
