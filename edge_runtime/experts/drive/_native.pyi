# The surface of src/bindings.cpp; meanings and units are in edge_runtime/experts/drive/__init__.py.
from collections.abc import Callable, Sequence

from edge_runtime.base.arrays import U32

_Span = tuple[int, int]
_Detail = tuple[int, int, int, int, int, int, int, int, str]

class DriveReader:
    def __init__(
        self,
        depth: int,
        drop_cached: bool,
        use_uring: bool = True,
        read: Callable[[int, memoryview, int], int] | None = None,
    ) -> None: ...
    @property
    def method(self) -> str: ...
    def add_layout(self, segments: Sequence[_Span], parts: Sequence[_Span]) -> int: ...
    def set_file(
        self,
        layer: int,
        fd: int,
        file_bytes: int,
        first_record: int,
        record_bytes: int,
        checksums: U32,
        has_stamp: bool,
    ) -> None: ...
    def set_layout(self, first: int, last: int, layout: int) -> None: ...
    def port(self) -> object: ...
    def submit(
        self,
        id: int,
        priority: int,
        layout: int,
        fd: int,
        file_bytes: int,
        offset: int,
        targets: Sequence[_Span],
        checksums: Sequence[int],
        has_stamp: bool,
        layer: int,
        expert: int,
    ) -> None: ...
    def wait(self, timeout_s: float) -> list[tuple[int, int, int, _Detail]]: ...
    def forget(self, id: int) -> None: ...
    def cancel(self, id: int) -> bool: ...
    def promote(self, id: int, priority: int) -> bool: ...
    def stats(self) -> tuple[int, int, int]: ...
    def close(self, timeout_s: float) -> bool: ...
