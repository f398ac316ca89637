"""Sends a bundle to a repository of a hub in one commit: it is there whole, or not at all. Needs huggingface_hub."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from edge_runtime.base.errors import ConfigError, HubError
from edge_runtime.base.extras import install_extra
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.manifest import NAME as MANIFEST
from edge_runtime.bundle.verification import check_bundle

_FOLDERS = ("calibration", "experts", "router", "tokenizer", "trunk")
"""Of a bundle. What else a repository has, such as its README.md, is its owner's."""


def push_to_hub(bundle: Bundle, name: str, *, replace: bool) -> None:
    """Send every part and the manifest to `org/name[@branch]`; the repository is made, private, if there is none.

    Raises:
        ConfigError: huggingface_hub is missing, or another bundle is there.
        BundleError: the bundle is damaged.
        HubError: the hub does not take it. What it has is not sent again the next time.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError as err:
        raise ConfigError(f"hf://{name}: pushing to a hub needs huggingface_hub. {install_extra('hub')}") from err
    repo, _, branch = name.partition("@")
    check_bundle(bundle)
    manifest = bundle.manifest
    api = HfApi(library_name="hobbit-edge")
    try:
        api.create_repo(repo, private=True, exist_ok=True)
        if api.file_exists(repo, MANIFEST, revision=branch or None) and not replace:
            raise ConfigError(f"hf://{name}: a bundle is there. Replace it with --replace, or choose another name.")
        api.upload_folder(
            repo_id=repo,
            folder_path=bundle.path,
            revision=branch or None,
            commit_message=f"Bundle {manifest.bundle_id[:12]}",
            allow_patterns=[MANIFEST, *(part.name for part in manifest.parts)],
            # parts of a bundle that was there before are no part of this one
            delete_patterns=[f"{folder}/*" for folder in _FOLDERS] if replace else None,
        )
    except HFValidationError as err:
        raise ConfigError(f"hf://{name}: {str(err)[:200]}") from err
    except (HfHubHTTPError, *transport_errors()) as err:
        raise HubError(
            f"hf://{name}: {str(err)[:300]}. Run the same command again: what is there is not sent again."
        ) from err


def transport_errors() -> tuple[type[Exception], ...]:
    """Exceptions that the HTTP library of huggingface_hub raises where no response came, or only a part of one."""
    from huggingface_hub.utils import get_session

    library: Any = import_module(type(get_session()).__module__.partition(".")[0])
    return (library.TransportError, library.StreamError, OSError)
