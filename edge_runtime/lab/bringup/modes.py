"""Power modes of a bring-up: a step that names one is measured in it, every other in the mode that was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from edge_runtime.base.ending import say
from edge_runtime.base.errors import DeviceError, HobbitError
from edge_runtime.lab.bench.power_modes import PowerModes
from edge_runtime.lab.bringup.steps import Step
from edge_runtime.lab.tune.mode_switch import ModeSwitch

Enter = Callable[[Step], str]


@contextmanager
def power_modes_of(steps: Sequence[Step], root: Path) -> Iterator[Enter]:
    """Yield what puts a step's mode in force; it returns why that did not work, "" if it did.

    However this block or the process ends, the mode that was found is in force again; see `PowerModes.changing`.
    Where modes cannot be changed that is said, and the reason why steps that name one are not run; all others are.

    Args:
        steps: all of them; where none names a mode, nothing is asked or changed.
        root: under which etc/nvpmodel.conf is.

    Raises:
        DeviceError: the mode could not be set back.
    """
    if not any(step.power_mode for step in steps):
        yield lambda step: ""
        return
    with ExitStack() as stack:
        try:
            modes = PowerModes(root)
            stack.enter_context(modes.changing())
            enter = _entering(ModeSwitch(modes))
        except (HobbitError, OSError) as err:
            why = f"power-modes: {str(err).removeprefix('power-modes: ')}"
            say(why)
            enter = _refusing(why)
        yield enter


def _refusing(why: str) -> Enter:
    return lambda step: why if step.power_mode else ""


def _entering(switch: ModeSwitch) -> Enter:
    def enter(step: Step) -> str:
        try:
            return switch.enter(step.power_mode or None) or ""
        except DeviceError as err:  # nvpmodel hangs, or does not say which mode it is in
            return str(err)

    return enter
