"""Brings one part of a bundle: which bytes of the whole bundle's file it needs, in which order, and again if needed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.base.errors import BundleError, HubError
from edge_runtime.bundle.bundle import checked_header, most_header_bytes
from edge_runtime.bundle.cut import cut_header
from edge_runtime.bundle.expert_file import ExpertFileHeader
from edge_runtime.bundle.manifest import Manifest, Part
from edge_runtime.bundle.record import BF16
from edge_runtime.transfer.arriving import PARTIAL, Arriving, Damaged, local_header
from edge_runtime.transfer.origin import Reader
from edge_runtime.transfer.patience import Again, Patience, Retrying

_EXPERTS = ("experts", "experts_bf16")
_MOST_DAMAGE = 3
"""Times that a part may arrive damaged, one after the other, before its server is no longer believed."""


@dataclass(frozen=True)
class Frame:
    """Where the bytes of a file lie in the whole bundle's.

    Attributes:
        size: of the whole bundle's file.
        headers: bytes of the header there and here.
        strides: bytes from one record to the next, there and here; equal where nothing is cut.
    """

    size: int
    headers: tuple[int, int] = (0, 0)
    strides: tuple[int, int] = (0, 0)

    @property
    def is_whole(self) -> bool:
        """Whether the file is the same there and here."""
        return self.strides[0] == self.strides[1]

    def run(self, at: int) -> tuple[int, int]:
        """Return the longest run of bytes there, from and to (exclusive), that belongs here from `at` on."""
        if self.is_whole:
            return at, self.size
        expert_idx, inside = divmod(at - self.headers[1], self.strides[1])
        start = self.headers[0] + expert_idx * self.strides[0] + inside
        return start, start + self.strides[1] - inside


@dataclass(frozen=True)
class PartPull:
    """Brings parts of one bundle into a folder; several threads may, each with a reader of its own.

    Attributes:
        whole: manifest of the bundle elsewhere.
        wanted: manifest of the bundle that grows.
        progress: called with bytes more that are here (fewer, if they were damaged) and bytes received for it.
    """

    whole: Manifest
    wanted: Manifest
    folder: Path
    retrying: Retrying
    stopped: threading.Event
    progress: Callable[[int, int], None]

    def bring(self, reader: Reader, part: Part) -> None:
        """Bring a part whole, going on where an earlier run was.

        Raises:
            BundleError: the server has other bytes than its manifest says.
            HubError: it does not answer.
        """
        for _ in range(_MOST_DAMAGE):
            try:
                self._bring(reader, part)
            except Damaged as err:
                damage = err
                (self.folder / (part.name + PARTIAL)).unlink(missing_ok=True)
            else:
                return
        raise BundleError(
            f"{part.name}: {damage}, {_MOST_DAMAGE} times in a row: the server has other bytes than its manifest "
            "says. Nothing of it is used. Tell whoever runs it, or pull from elsewhere."
        )

    def _bring(self, reader: Reader, part: Part) -> None:
        source = self.whole.part(part.name)
        patience, damages, damage_at = Patience(self.retrying, self.stopped), 0, -1
        frame, header = self._frame(reader, source, part, patience)
        with Arriving(self.folder, part, header) as file:
            self.progress(file.at, 0)
            counted = file.at
            while file.at < part.bytes:
                self._go_on()
                start, stop = frame.run(file.at)
                try:
                    for data in reader.read(part.name, start, stop, frame.size, may_skip=frame.is_whole):
                        self._go_on()
                        try:
                            file.add(data)
                        finally:
                            self.progress(file.at - counted, len(data))
                            counted = file.at
                        patience.progress()
                except Again as err:
                    patience.wait(err)
                except Damaged as err:
                    damages, damage_at = (damages + 1 if damage_at == file.at else 1), file.at
                    if damages >= _MOST_DAMAGE:
                        raise BundleError(_other_bytes(part, str(err), damages)) from err
            try:
                file.finish()
            except Damaged:
                self.progress(-counted, 0)
                raise

    def _frame(
        self, reader: Reader, source: Part, part: Part, patience: Patience
    ) -> tuple[Frame, ExpertFileHeader | None]:
        """Return where a part's bytes lie, and its header if it is one of experts."""
        if part.role not in _EXPERTS:
            return Frame(source.bytes), None
        tier = BF16 if part.role == "experts_bf16" else 2
        there, here = most_header_bytes(self.whole, tier), most_header_bytes(self.wanted, tier)
        header = self._left_header(part, here) or self._remote_header(reader, source, part, there, patience)
        segments = self.whole.layout.segment_bytes
        depth = len(header.segment_bytes)
        if part.role == "experts_bf16" or depth == len(segments):
            return Frame(source.bytes), header
        return Frame(source.bytes, (there, here), (sum(segments), header.record_stride)), header

    def _left_header(self, part: Part, size: int) -> ExpertFileHeader | None:
        """Return the header an earlier run wrote, if it did; else forget what is left of the file."""
        data = local_header(self.folder, part, size)
        try:
            return checked_header(self.wanted, part, data) if data else None
        except BundleError:
            (self.folder / (part.name + PARTIAL)).unlink()
            return None

    def _remote_header(
        self, reader: Reader, source: Part, part: Part, size: int, patience: Patience
    ) -> ExpertFileHeader:
        """Fetch the header of the whole bundle's file and cut it."""
        damages = 0
        while True:
            try:
                data = b"".join(reader.read(part.name, 0, size, source.bytes, may_skip=True))
                header = checked_header(self.whole, source, data)
            except Again as err:
                patience.wait(err)
            except BundleError:
                damages += 1
                if damages >= _MOST_DAMAGE:
                    raise
            else:
                depth = 1 if part.role == "experts_bf16" else self.wanted.experts.num_segments
                return cut_header(header, depth)
            self._go_on()

    def _go_on(self) -> None:
        if self.stopped.is_set():
            raise HubError("the transfer is ending. Run the same command again to resume.")


def _other_bytes(part: Part, what: str, times: int) -> str:
    return (
        f"{part.name}: {what}, {times} times in a row: the server has other bytes than it says. "
        "Nothing of it is used. Tell whoever runs it, or pull from elsewhere."
    )
