"""Handles signals and reports to systemd. Knows neither HTTP nor the model."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Coroutine, MutableMapping

from edge_runtime.base.errors import HobbitError
from edge_runtime.service.ops.control import Controllable
from edge_runtime.service.ops.health import Phase
from edge_runtime.service.ops.notify import LoopWatchdog, Notifier, watchdog_interval_s
from edge_runtime.service.ops.settings import Settings

_log = logging.getLogger(__name__)
_STATUS_EVERY_S = 5.0
_LOOPS = ("serving", "http")


class Lifecycle:
    """Drains at SIGTERM and SIGINT, reloads at SIGHUP, reports to systemd.

    The watchdog is fed only while both loops run: the serving loop through its `Heartbeat`, the HTTP loop through a
    task of its own. A second SIGTERM or SIGINT ends the process at once.

    Args:
        service: what is run.
        env: the environment; systemd's variables are taken out of it.
        settings: what SIGHUP reads again.
    """

    def __init__(self, service: Controllable, env: MutableMapping[str, str], settings: Settings) -> None:
        self._service, self._settings = service, settings
        self.notifier = Notifier.from_environment(env)
        self._watchdog = LoopWatchdog(self.notifier, watchdog_interval_s(env), _LOOPS)
        self._watchdog.attach(service.heartbeat)
        self._reloading = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_ready = False
        service.readiness.listeners.append(self._on_phase)

    def start(self) -> None:
        """Take over the signals of this process and start reporting; call in the running HTTP loop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn(self.reload()))
        self._spawn(self._report())
        if self._watchdog.pause_s:
            self._spawn(self._beat(self._watchdog.pause_s))
        # the phase may have changed before anybody listened
        self._on_phase(self._service.readiness.phase, self._service.readiness.reason)

    async def close(self) -> None:
        """Give signals back and stop reporting."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.notifier.close()

    async def reload(self) -> None:
        """Read the settings file again and switch what can be switched between two tokens."""
        async with self._reloading:
            self.notifier.reloading(f"reading {self._settings.path}")
            try:
                outcome = await asyncio.get_running_loop().run_in_executor(None, self._apply)
            except (HobbitError, TimeoutError) as err:
                _log.error("reload refused, settings stay as they were: %s", err)
                outcome = f"reload refused: {err}"
            self.notifier.ready(outcome)

    def _apply(self) -> str:
        change = self._settings.changes()
        if change.live:
            self._service.reload(change.reload)
        self._settings.commit(change)
        for name in change.later:
            _log.warning("reload: %s takes effect with the next start (systemctl restart)", name)
        outcome = f"reloaded: {', '.join(change.live)}" if change.live else "reloaded: nothing to switch"
        _log.info(outcome)
        return outcome

    def _stop(self, number: int) -> None:
        if self._service.readiness.phase is Phase.DRAINING:
            _log.warning("%s again: stopping at once", signal.Signals(number).name)
            asyncio.get_running_loop().remove_signal_handler(number)
            os.kill(os.getpid(), number)
            return
        _log.info("%s: finishing the requests under way, taking no more", signal.Signals(number).name)
        self._service.drain()

    def _on_phase(self, phase: Phase, reason: str) -> None:
        """Called in whichever thread changed the phase."""
        if phase is Phase.READY and not self._is_ready:
            self._is_ready = True
            self.notifier.ready(self._line())
        elif phase is Phase.LOADING:
            self.notifier.status(reason)
        elif phase is Phase.DRAINING:
            self.notifier.stopping(self._line())
        elif phase is Phase.FAILED:
            self.notifier.failed(reason)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(_STATUS_EVERY_S)
            if self._service.readiness.phase in (Phase.READY, Phase.DRAINING) and not self._reloading.locked():
                self.notifier.status(self._line())

    async def _beat(self, pause_s: float) -> None:
        while True:
            self._watchdog.beat("http")
            await asyncio.sleep(pause_s / 2)

    def _line(self) -> str:
        figures, engine = self._service.stats.read(), self._service.stats.engine
        policy = f", policy {engine.policy.get('name')}" if engine else ""
        phase = self._service.readiness.phase.value
        return (
            f"{phase}: {figures.running} running, {figures.waiting} waiting, {figures.generation_tokens} tokens{policy}"
        )

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
