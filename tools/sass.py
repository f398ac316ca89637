"""Read what NVIDIA's tools say of compiled kernels: register reports of ptxas, machine code as cuobjdump prints it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_ENTRY = re.compile(r"Compiling entry function '(\w+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_FUNCTION = re.compile(r"Function : (\S+)(.*?)(?=Function :|\Z)", re.DOTALL)
_LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(.*?);")
_GUARD = re.compile(r"^@!?U?P\w+\s+")
_BRANCH = re.compile(r"^BRA\S*\s.*?(0x[0-9a-f]+)")


@dataclass(frozen=True)
class Resources:
    """What one kernel takes.

    Attributes:
        registers: of a thread.
        stack_bytes: local memory of a thread.
        spill_bytes: registers stored to local memory and loaded again.
    """

    registers: int
    stack_bytes: int
    spill_bytes: int


def read_resources(log: str) -> dict[str, Resources]:
    """Return each entry point's figures from a report of `ptxas -v`."""
    found: dict[str, Resources] = {}
    entry, stack = "", (0, 0)
    for line in log.splitlines():
        if match := _ENTRY.search(line):
            entry, stack = match[1], (0, 0)
        elif match := _STACK.search(line):
            stack = int(match[1]), int(match[2]) + int(match[3])
        elif (match := _USED.search(line)) and entry:
            found[entry], entry = Resources(int(match[1]), *stack), ""
    return found


@dataclass(frozen=True)
class Loop:
    """One loop.

    Attributes:
        instructions: in order, without predicates.
        start: address of the first.
        end: of the branch back.
    """

    instructions: tuple[str, ...]
    start: int
    end: int

    def is_around(self, other: Loop) -> bool:
        """Whether another loop lies inside."""
        return other != self and self.start <= other.start and other.end <= self.end

    def count(self, pattern: str) -> int:
        """Return how many instructions match a pattern at their start."""
        return sum(bool(re.match(pattern, text)) for text in self.instructions)


@dataclass(frozen=True)
class Code:
    """One kernel's machine code: (address, instruction without its predicate), in order."""

    lines: tuple[tuple[int, str], ...]

    def loops(self) -> Iterator[Loop]:
        """Yield what lies between a branch back and its target."""
        for at, text in self.lines:
            branch = _BRANCH.match(text)
            if branch and int(branch[1], 16) < at:
                start = int(branch[1], 16)
                yield Loop(tuple(body for place, body in self.lines if start <= place <= at), start, at)

    def inner_loop(self, pattern: str) -> Loop | None:
        """Return the loop without another one inside that has most instructions which match; None if no loop has one.

        An unrolled loop has a second one behind it for what is left over, with fewer.
        """
        loops = list(self.loops())
        inner = [loop for loop in loops if not any(loop.is_around(other) for other in loops)]
        found = [loop for loop in inner if loop.count(pattern)]
        return max(found, key=lambda loop: (loop.count(pattern), -len(loop.instructions)), default=None)


def read_code(sass: str) -> dict[str, Code]:
    """Return each kernel's instructions from the output of `cuobjdump -sass`."""
    return {
        name: Code(tuple((int(at, 16), _GUARD.sub("", text)) for at, text in _LINE.findall(body)))
        for name, body in _FUNCTION.findall(sass)
    }
