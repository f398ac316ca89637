"""Plans of a bundle's graphs: kept under a fingerprint of all they follow from, and built again where it changed."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from edge_runtime.backends.cpu.trunk.graph_check import read_checked
from edge_runtime.backends.cpu.trunk.signature import Signature
from edge_runtime.backends.cuda.cubins import digest_of, read_cubin, write_cubin
from edge_runtime.backends.cuda.tensorrt.allow_list import refusals
from edge_runtime.backends.cuda.tensorrt.building import PlanBuilder, Range, plan_folder
from edge_runtime.backends.cuda.tensorrt.graph import Lowered
from edge_runtime.backends.cuda.tensorrt.library import Library
from edge_runtime.backends.cuda.tensorrt.lowering import lower
from edge_runtime.backends.cuda.tensorrt.modern import OPSET, modernise
from edge_runtime.backends.cuda.tensorrt.products import by_products
from edge_runtime.backends.cuda.tensorrt.scratch_folder import scratch_folder
from edge_runtime.base.errors import DeviceError
from edge_runtime.bundle.bundle import Bundle

_LOG = logging.getLogger(__name__)
FORMAT = 2
"""Raised with every change of the lowering or the way plans are built."""


class Plans:
    """Plans of one bundle for one GPU, library and profile.

    Args:
        bundle: an open bundle whose parts were checked.
        library: TensorRT.
        device: what tells the GPU and its driver from others: `Device.facts`.
        profiles: sizes they are built for.
        workspace_bytes: they are built within.
        make_builder: makes what builds within so much, when something has to be built.
        folder: where they are kept; `plan_folder` if left out.
    """

    def __init__(
        self, bundle: Bundle, library: Library, device: tuple[object, ...], profiles: Sequence[Range],
        workspace_bytes: int, make_builder: Callable[[int], PlanBuilder], folder: Path | None = None,
    ) -> None:  # fmt: skip
        self._bundle, self._library, self._device, self._profiles = bundle, library, device, tuple(profiles)
        self._workspace, self._make_builder = workspace_bytes, make_builder
        self._folder = plan_folder() if folder is None else folder
        self._builder: PlanBuilder | None = None

    def lowered(self, part: str, signature: Signature) -> Lowered:
        """Return a graph as the library's version takes it.

        Raises:
            BundleError: the graph cannot be read, or is not of the exporter's kind.
            DeviceError: the version is not said to take it.
        """
        path = self._bundle.file_of(self._bundle.manifest.part(part))
        graph = read_checked(path, part, signature, oldest=False)
        version = self._library.version
        try:
            low = lower(path.stem, graph, path.with_suffix(".data"))
        except ValueError as err:
            raise DeviceError(f"{part}: TensorRT: {err}. Use --backend cuda:trunk=cpu.") from err
        low = modernise(low, self._profiles[0].slots) if version.opset >= OPSET else low
        if problem := next(refusals(low, version), ""):
            raise DeviceError(f"{part}: TensorRT {version.name} does not take {problem}. Use --backend cuda:trunk=cpu.")
        return low

    def kept(self, part: str) -> bytes | None:
        """Return the plan of a part if it was built before; None if not, or if it is damaged."""
        return read_cubin(self._path(part))

    def digest(self, part: str, plan: bytes) -> bytes:
        """Name the plan of a part that is in use: two builds from the same graph may compute other bits."""
        return digest_of(self._path(part)) or hashlib.sha256(plan).digest()

    def build(self, part: str, low: Lowered) -> bytes:
        """Build the plan of a part and keep it.

        Raises:
            DeviceError: it cannot be built.
        """
        self._builder = self._builder or self._make_builder(self._workspace)
        _LOG.info("tensorrt: building %s", part)
        path = self._path(part)
        self._remove_others(part)
        with scratch_folder(path.parent) as folder:
            plan = build_plan(self._builder, low, folder, self._profiles)
        try:
            write_cubin(path, plan)
        except OSError as err:
            _LOG.warning("tensorrt: plans cannot be kept in %s: %s", path.parent, err.strerror)
        return plan

    def fingerprint(self, part: str) -> str:
        """Name everything a part's plan follows from."""
        stem = part.removesuffix(".onnx")
        parts = sorted((p.name, p.sha256) for p in self._bundle.manifest.parts if p.name in (part, f"{stem}.data"))
        built_with = FORMAT, self._library.name, self._library.version.name, self._workspace
        return hashlib.sha256(repr((built_with, self._device, self._profiles, parts)).encode()).hexdigest()

    def _path(self, part: str) -> Path:
        return self._folder / f"{self._stem(part)}{self.fingerprint(part)[:24]}.plan"

    def _stem(self, part: str) -> str:
        """The same for every plan of a part of this bundle: the one built last replaces the others."""
        return f"{self._bundle.manifest.bundle_id[:16]}-{Path(part).stem}-"

    def _remove_others(self, part: str) -> None:
        """Make room: plans of a part are large, and of one context at a time."""
        for old in self._folder.glob(f"{self._stem(part)}*.plan"):
            try:
                old.unlink(missing_ok=True)
            except OSError as err:
                _LOG.warning("tensorrt: %s cannot be removed: %s", old, err.strerror)


def build_plan(builder: PlanBuilder, low: Lowered, folder: Path, profiles: Sequence[Range]) -> bytes:
    """Build the plan of a graph; where there is no kernel for its attention, of one with products in its place.

    A library has kernels for attention of some shapes only, and says so when it builds.

    Args:
        builder: builds it.
        low: the graph.
        folder: takes its weights meanwhile.
        profiles: sizes it is built for.

    Raises:
        DeviceError: it cannot be built either way, or the folder has no room.
    """
    try:
        return builder.build(low, _written(low, folder), profiles)
    except DeviceError as err:
        plain = by_products(low)
        if plain is low:
            raise
        _LOG.warning("tensorrt: %s: its attention becomes products and a softmax: %s", low.name, err)
        return builder.build(plain, _written(plain, folder), profiles)


def _written(low: Lowered, folder: Path) -> Path:
    try:
        return low.write(folder)
    except OSError as err:
        raise DeviceError(f"{folder}: {low.name} cannot be written for TensorRT: {err.strerror}. Free space.") from err
