"""Brings a bundle into the folder of models: its manifest, then the parts that are missing, then one rename."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from edge_runtime.base.errors import BundleError, ConfigError, HobbitError
from edge_runtime.bundle import manifest_file
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.cut import choose_tiers, cut_manifest
from edge_runtime.bundle.manifest import Manifest, Part
from edge_runtime.transfer.growing import (
    check_space,
    full_drive_explained,
    is_whole,
    partial_bytes,
    remove_strangers,
    write_manifest,
)
from edge_runtime.transfer.model_folder import ModelFolder
from edge_runtime.transfer.origin import Origin, Reader
from edge_runtime.transfer.part_pull import PartPull
from edge_runtime.transfer.patience import Again, Patience, Retrying


@dataclass(frozen=True)
class PullOptions:
    """What of a bundle is wanted, and how.

    Attributes:
        tiers: as `choose_tiers` takes them; None: all.
        name: of the model; None: what the origin is called.
        bundle_id: the bundle elsewhere must have this id, or begin with it.
        replace: a model of that name may be replaced.
        connections: files fetched at a time.
    """

    tiers: str | None = None
    name: str | None = None
    bundle_id: str | None = None
    replace: bool = False
    connections: int = 4
    retrying: Retrying = field(default_factory=Retrying)


@dataclass(frozen=True)
class Pulled:
    """What a pull did; `received_bytes` came from the origin, `resumed_bytes` were here already."""

    name: str
    path: str
    bundle_id: str
    tiers: list[int]
    bytes: int
    received_bytes: int
    resumed_bytes: int
    was_there: bool


Progress = Callable[[int, int], None]
"""Bytes more that are here, and bytes there will be."""


def pull(origin: Origin, folder: ModelFolder, options: PullOptions, progress: Progress | None = None) -> Pulled:
    """Bring a bundle; nothing is visible under its name before every byte was compared with its checksum.

    Raises:
        ConfigError: no such bundle, no access, a name that is taken, or tiers it has not got.
        BundleError: what the server sends is not what its manifest says.
        BudgetError: the drive has not enough room.
        HubError: the server does not answer. What is here is kept.
    """
    name = options.name or origin.name
    place = folder.place(name)
    with closing(origin.reader(options.retrying.timeout_s)) as reader:
        raw = _manifest(reader, options.retrying)
        whole = manifest_file.parse(raw)
        _check_id(whole, options.bundle_id, origin.label)
        tiers = whole.experts.tiers if options.tiers is None else choose_tiers(whole, options.tiers)
        wanted = cut_manifest(whole, tiers)
        size = sum(part.bytes for part in wanted.parts)
        if _is_there(place, wanted, replace=options.replace):
            return Pulled(name, str(place), wanted.bundle_id, tiers, size, 0, size, True)
        with folder.staging(name, wanted.bundle_id) as staging, full_drive_explained(staging, size):
            transfer = _Transfer(whole, wanted, staging / "bundle", options, progress or (lambda more, total: None))
            transfer.run(reader)
            write_manifest(staging / "bundle", raw if wanted is whole else manifest_file.dump(wanted))
            Bundle.open(staging / "bundle")
            folder.publish(staging / "bundle", name, replace=options.replace)
    return Pulled(
        name, str(place), wanted.bundle_id, tiers, size, transfer.received_bytes, transfer.resumed_bytes, False
    )


class _Transfer:
    """Fetches the parts that are missing, a few at a time, and counts."""

    def __init__(
        self, whole: Manifest, wanted: Manifest, folder: Path, options: PullOptions, progress: Progress
    ) -> None:
        folder.mkdir(exist_ok=True)
        self._wanted, self._folder, self._options, self._progress = wanted, folder, options, progress
        self._total = sum(part.bytes for part in wanted.parts)
        self._stopped, self._lock = threading.Event(), threading.Lock()
        self._readers: list[Reader] = []
        self.received_bytes = self.resumed_bytes = 0
        self._pull = PartPull(whole, wanted, folder, options.retrying, self._stopped, self._count)

    def run(self, reader: Reader) -> None:
        """Fetch everything, or raise what went wrong first; then no thread is left."""
        missing = [part for part in self._wanted.parts if not is_whole(self._folder, part)]
        here = self._total - sum(part.bytes for part in missing)
        partial = sum(partial_bytes(self._folder, part) for part in missing)
        check_space(self._folder, self._total - here - partial)
        self.resumed_bytes = here + partial
        self._count(here, 0)
        names = {part.name for part in self._wanted.parts}
        remove_strangers(self._folder, names)
        lock, free = threading.Lock(), [reader]

        def one(part: Part) -> None:
            with lock:
                mine = free.pop() if free else self._another(reader)
            self._pull.bring(mine, part)
            with lock:
                free.append(mine)

        self._readers.append(reader)
        pool = ThreadPoolExecutor(self._options.connections, thread_name_prefix="hobbit-pull")
        try:
            _first_failure([pool.submit(one, part) for part in missing])
        finally:
            self._stopped.set()
            for each in self._readers:
                each.stop()
            pool.shutdown(cancel_futures=True)
            for each in self._readers:
                each.close()

    def _another(self, reader: Reader) -> Reader:
        self._readers.append(reader.another())
        return self._readers[-1]

    def _count(self, more: int, received: int) -> None:
        with self._lock:
            self.received_bytes += received
            self._progress(more, self._total)


def _first_failure(futures: list[Future[None]]) -> None:
    done, _ = wait(futures, return_when=FIRST_EXCEPTION)
    for future in done:
        future.result()


def _manifest(reader: Reader, retrying: Retrying) -> bytes:
    patience = Patience(retrying, threading.Event())
    while True:
        try:
            return reader.manifest(manifest_file.MAX_MANIFEST_BYTES)
        except Again as err:
            patience.wait(err)


def _check_id(whole: Manifest, wanted: str | None, label: str) -> None:
    if wanted is not None and not (len(wanted) >= 8 and whole.bundle_id.startswith(wanted.lower())):
        raise BundleError(
            f"{label}: expected the bundle {wanted[:64]}, found {whole.bundle_id}. Check the address and the id."
        )


def _is_there(place: Path, wanted: Manifest, *, replace: bool) -> bool:
    """Whether the bundle is there already.

    Raises:
        ConfigError: something else is there.
    """
    if not os.path.lexists(place):
        return False
    try:
        found = Bundle.open(place).manifest
        is_it, what = found.bundle_id == wanted.bundle_id, f"the bundle {found.bundle_id[:12]}"
        what += f", tiers {', '.join(map(str, found.experts.tiers))}"
    except HobbitError:
        is_it, what = False, "something that is no whole bundle"
    if not is_it and not replace:
        raise ConfigError(
            f"{place}: is taken by {what}. Choose another name with --name, replace it with --replace, "
            "or remove it with `hobbit rm`."
        )
    return is_it
