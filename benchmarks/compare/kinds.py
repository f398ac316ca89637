"""Kinds of peers: what each must do, and how one is named on the command line. Nothing is built here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from benchmarks.compare.bigmoeonedge import BigMoeOnEdge
from benchmarks.compare.command_peer import CommandPeer
from benchmarks.compare.group import MemoryGroup
from benchmarks.compare.server import LlamaCpp
from benchmarks.compare.workload import Model, PeerMode, Tokens


class Peer(Protocol):
    """A program that runs the same model.

    Attributes:
        name: the side its cells are recorded under.
        version: as it says itself.
        build: what its files are, see `builds.build_of`: of one version there are faster builds and slower ones.
    """

    @property
    def name(self) -> str:
        """See the class."""
        ...

    @property
    def version(self) -> str:
        """See the class."""
        ...

    @property
    def build(self) -> str:
        """See the class."""
        ...

    def modes(self, regime: str) -> Sequence[PeerMode]:
        """Return the ways of running it to try in a regime; later rounds repeat the best."""
        ...

    def measure(
        self, model: Model, mode: PeerMode, regime: str, tokens: Tokens, group: MemoryGroup
    ) -> Mapping[str, Any]:
        """Run a cell's requests inside a group and return stages 'prefill_cold', 'decode' and 'prefill'.

        Raises:
            PeerError: it was killed, does not start, or did something else than asked.
        """
        ...


KINDS: Mapping[str, Callable[[Path], Peer]] = {
    "llama.cpp": LlamaCpp,
    "bigmoeonedge": BigMoeOnEdge,
    "command": CommandPeer,
}


def open_peer(text: str) -> Peer:
    """Return the peer of ``KIND=PATH``.

    Raises:
        SystemExit: no such kind, or nothing usable is there.
    """
    kind, equals, path = text.partition("=")
    if kind not in KINDS or not equals or not path:
        raise SystemExit(f"--peer {text}: expected KIND=PATH with KIND one of {', '.join(KINDS)}.")
    return KINDS[kind](Path(path))


def open_peers(texts: Sequence[str]) -> list[Peer]:
    """Return all peers; their names differ.

    Raises:
        SystemExit: see `open_peer`, or two have the same name.
    """
    peers = [open_peer(text) for text in texts]
    names = [peer.name for peer in peers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SystemExit(f"--peer: {', '.join(twice)} is named twice. Results are found by a peer's name.")
    return peers
