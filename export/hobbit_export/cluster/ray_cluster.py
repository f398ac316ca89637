"""`Cluster` on Ray: an order is a task. The only module that imports ray, and only when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from edge_runtime.base.errors import ConfigError, DeviceError, HobbitError
from edge_runtime.base.extras import install_extra
from edge_runtime.base.sizes import format_size
from hobbit_export.cluster.driver import Lost
from hobbit_export.cluster.work import Done, Order, run_order

LOCAL, RUNNING = "local", "auto"
_DEFAULT_CPUS = 4
_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class RayCluster:
    """A connection to a Ray cluster, for one export.

    Args:
        address: of its head node; `auto` the one that runs on this machine (or RAY_ADDRESS), `local` starts one that
            lasts as long as this process.
        jobs: processors and encoder threads of a task; 0: four, or as many as the smallest node has.
        memory_bytes: of a task.

    Attributes:
        jobs: as given, or chosen.
    """

    def __init__(self, address: str, jobs: int, memory_bytes: int) -> None:
        self._ray = _ray()
        _connect(self._ray, address)
        try:
            self.jobs = _jobs(self._ray, jobs, memory_bytes)
        except BaseException:
            self.stop()
            raise
        # a task that fails says so: a step is handed out again by us, who can say which and why
        options = {"num_cpus": self.jobs, "memory": memory_bytes, "max_retries": 0}
        self._task = self._ray.remote(**options)(run_order)
        self._running: dict[Any, Order] = {}

    def submit(self, order: Order) -> None:
        """See `Cluster`."""
        self._running[self._task.options(name=order.step).remote(order)] = order

    def wait(self, timeout_s: float) -> Sequence[Done | Lost]:
        """See `Cluster`."""
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
        return [self._outcome(reference) for reference in ready]

    def stop(self) -> None:
        """See `Cluster`."""
        self._ray.shutdown()

    def _outcome(self, reference: Any) -> Done | Lost:
        order, errors = self._running.pop(reference), self._ray.exceptions
        try:
            done: Done = self._ray.get(reference)
        except errors.RayTaskError as err:
            cause = err.cause
            if isinstance(cause, (HobbitError, OSError)):
                raise cause from None
            raise DeviceError(f"{order.step}: failed on a node: {str(err).strip().splitlines()[-1][:300]}.") from err
        except errors.RayError as err:
            return Lost(order.step, type(err).__name__)
        return done


def _ray() -> ModuleType:
    # Ray sends usage figures to its vendor unless told not to; it reads this when it is imported
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
    except ImportError as err:
        raise ConfigError(f"--engine ray: needs ray. {install_extra('ray')}") from err
    module: ModuleType = ray
    return module


def _connect(ray: ModuleType, address: str) -> None:
    """Connect, or start a cluster on this machine."""
    options: dict[str, Any] = {"log_to_driver": False, "runtime_env": {"env_vars": _ONE_THREAD}}
    if address == LOCAL:
        options |= {"address": LOCAL, "include_dashboard": False}
    else:
        options["address"] = os.environ.get("RAY_ADDRESS", RUNNING) if address == RUNNING else address
    try:
        ray.init(**options)
    except Exception as err:  # what ray raises here has no common base; a slow start is a bare Exception
        said = str(err).strip().splitlines()[0][:200]
        if address == LOCAL:
            raise DeviceError(
                f"--ray-address local: a cluster did not start here: {said}. Is this machine busy?"
            ) from err
        raise ConfigError(
            f"--ray-address {address}: no cluster answers: {said}. Start one with `ray start --head` here and "
            "`ray start --address=HOST:6379` on the others, or say --ray-address local."
        ) from err


def _jobs(ray: ModuleType, jobs: int, memory_bytes: int) -> int:
    """Return the processors of a task; refuses one that no node could ever run."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = [node for node in nodes if node.get("CPU", 0) >= 1]
    if not nodes:
        raise ConfigError("--engine ray: the cluster has no node with a processor.")
    chosen = jobs or min(_DEFAULT_CPUS, *(int(node["CPU"]) for node in nodes))
    if not any(node["CPU"] >= chosen and node.get("memory", 0) >= memory_bytes for node in nodes):
        most = max(nodes, key=lambda node: float(node["CPU"]))
        raise ConfigError(
            f"--engine ray: no node has {chosen} processors and {format_size(memory_bytes)} for a task; the largest "
            f"has {int(most['CPU'])} and {format_size(most.get('memory', 0))}. Lower --jobs or --memory."
        )
    return chosen
