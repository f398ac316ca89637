"""Opens a model by name: its small files first, then whatever its weights are read from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from importlib.util import find_spec
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
from hobbit_export.origin import CONFIG
from hobbit_export.shards import INDEX
from hobbit_export.tokenizer_files import OPTIONAL, REQUIRED, TEMPLATES

_SMALL = {CONFIG, GENERATION, INDEX, REQUIRED, *OPTIONAL}
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
    name = _name_of(options, keep_source)
    if name is None:
        return options
    if _is_offline():
        return replace(options, checkpoint=_offline(name), source_name=str(name))
    listing = list_model(name)
    if name.file is not None:
        return _gguf(options, with_splits(listing, name.file), name.file, keep_source)
    named = replace(options, source_name=str(listing))
    if keep_source is not None:
        return replace(named, checkpoint=_download(listing, _wanted(listing, weights=True), keep_source))
    folder = _download(listing, _wanted(listing, weights=False), None)
    return replace(named, checkpoint=folder, files=HubFiles(listing, folder))


def indexed(options: ExportOptions, keep_source: Path | None) -> tuple[ExportOptions, Listing] | None:
    """Return options whose folder has a model's configuration and index alone, and what the hub lists of the model.

    Args:
        options: of a dry run.
        keep_source: of the export it is for; nothing is downloaded there.

    Returns:
        None where an index says nothing: of a folder, a GGUF file, or what the hub's cache holds offline.

    Raises:
        ConfigError, HubError, BundleError: as of `by_name`.
    """
    name = _name_of(options, keep_source)
    if name is None or name.file is not None or _is_offline():
        return None
    listing = list_model(name)
    _check_is_of_transformers(listing)
    folder = _download(listing, listing.small_files({CONFIG, INDEX}), None)
    return replace(options, source_name=str(listing), checkpoint=folder, files=HubFiles(listing, folder)), listing


def _name_of(options: ExportOptions, keep_source: Path | None) -> HubName | None:
    name = hub_name(str(options.checkpoint))
    if name is None and keep_source is not None:
        raise ConfigError(f"--keep-source: {options.checkpoint} is not the name of a model on a hub. Leave it out.")
    if name is not None and find_spec("huggingface_hub") is None:
        raise ConfigError(f"{name}: models by name need huggingface_hub. {install_extra('export')}")
    return name


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


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
    _check_is_of_transformers(listing)
    small = listing.small_files(_SMALL, TEMPLATES)
    large = [file for name, file in listing.files.items() if name.endswith(_WEIGHTS) and "/" not in name]
    return small + large if weights else small


def _check_is_of_transformers(listing: Listing) -> None:
    if CONFIG not in listing.files:
        raise ConfigError(
            f"{listing}: expected a model of transformers, found no {CONFIG} in it. {gguf_files(listing)}"
        )


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
        if file.name == CONFIG:
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
