"""Sends a bundle to where others can pull it: the parts first, the manifest last. Without it nothing is a bundle."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edge_runtime.base.errors import ConfigError
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.transfer.model_folder import ModelFolder
from edge_runtime.transfer.origin import FolderOrigin, HttpOrigin
from edge_runtime.transfer.patience import Retrying
from edge_runtime.transfer.pull import Progress, PullOptions, pull

HUB = "hf://"


@dataclass(frozen=True)
class Pushed:
    """What a push did; `sent_bytes` is 0 where the bundle was there, None where a library counts it."""

    target: str
    bundle_id: str
    bytes: int
    sent_bytes: int | None


@dataclass(frozen=True)
class PushOptions:
    """How a bundle is sent; `replace`: another bundle at the target may be replaced."""

    replace: bool = False
    retrying: Retrying = field(default_factory=Retrying)


def push(bundle: Path, target: str, options: PushOptions, progress: Progress | None = None) -> Pushed:
    """Send a bundle to a folder, a server that takes PUT (http://, https://), or a hub (hf://org/name).

    Raises:
        ConfigError: no such target, no access to it, or another bundle is there.
        BundleError: the bundle is damaged.
        HubError: the server does not take it. What it has is passed over the next time.
        BudgetError: a folder's drive has not enough room.
    """
    found = Bundle.open(bundle)
    show = progress or (lambda more, total: None)
    if target.startswith(HUB):
        from edge_runtime.transfer.hub_push import push_to_hub

        push_to_hub(found, target.removeprefix(HUB), replace=options.replace)
        return _pushed(found, target, None)
    if target.startswith(("http://", "https://")):
        from edge_runtime.transfer.http_push import HttpPush

        origin, total = HttpOrigin.of(target), sum(part.bytes for part in found.manifest.parts)
        send = HttpPush(found, origin, options.retrying, lambda more: show(more, total))
        return _pushed(found, origin.label, send.run(replace=options.replace))
    if "://" in target:
        raise ConfigError(f"{target[:80]}: expected a folder, http://, https:// or {HUB}org/name.")
    place = Path(target).absolute()
    # the same as a pull from here: resumed, checked, and visible by one rename
    pull_options = PullOptions(name=place.name, replace=options.replace, connections=1, retrying=options.retrying)
    done = pull(FolderOrigin(bundle), ModelFolder(place.parent), pull_options, show)
    return _pushed(found, str(place), done.received_bytes)


def _pushed(bundle: Bundle, target: str, sent: int | None) -> Pushed:
    size = sum(part.bytes for part in bundle.manifest.parts)
    return Pushed(target, bundle.manifest.bundle_id, size, sent)
