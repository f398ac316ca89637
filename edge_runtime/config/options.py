"""The one table of options. A field is an entry: add one here and it is everywhere.

From the entries come the flags of `hobbit` (`cli.options`), the HOBBIT_ variables (`environment`), the keys of a
profile and their JSON Schema (`profiles`, `profile_schema`), what `serve --settings` accepts and a reload switches
(`service.ops.settings`), and docs/options.md (`tools/options_table.py`). The values end up in the fields.

Imports nothing heavy: `hobbit VERB --help` needs it, and every start pays for methods that dataclasses make.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.config import fitting
from edge_runtime.config.command_options import CommandOptions as CommandOptions
from edge_runtime.config.kinds import Choice, Count, File, Kind, Named, Number, Size, Switch, Text, Tier, Word
from edge_runtime.config.option import AUTO, option, options_of
from edge_runtime.config.origins import Origins
from edge_runtime.config.registered import EVICTION_RULES, POLICIES, POWER_METERS, PREDICTORS

if TYPE_CHECKING:
    from edge_runtime.config.device_profile import DeviceProfile

# fmt: off
# an entry is easier to read in few lines


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """Engine options, every ``auto`` replaced. `resolve.resolve` builds it."""

    profile: DeviceProfile = option(
        Kind("auto|NAME|PATH"), AUTO, default_text="that of the board", is_live=True,
        example="orin-nano-8gb", help="device profile: values for options nobody gave",
        doc="The name of a packaged profile or a path to a YAML file, see [profiles.md](profiles.md). `auto` looks at "
        "device tree, L4T release and memory. A reload takes over what is live; the rest waits for the next start.",
    )
    memory: int | None = option(
        Size("SIZE|auto"), AUTO, default_text="what the cgroup and the machine leave", auto=lambda _: None,
        auto_is_final=True, in_profile=True, is_live=True, example="2GiB",
        help="ceiling for the whole process",
        doc="The memory plan adds up everything the process needs and gives the rest to cached experts. With `auto` "
        "the ceiling is the tightest cgroup limit or MemAvailable, less the profile's `os_reserve`.",
    )
    os_reserve: int = option(
        Size(), "512MiB", in_profile=True, example="1GiB",
        help="memory left to the rest of the machine when the ceiling is auto",
    )
    expert_memory: int | None = option(
        Size(), default_text="what fits", in_profile=True, is_live=True, example="100MiB",
        help="ceiling for cached experts alone, within the process's",
    )
    elastic: bool = option(
        Switch(), "off", in_profile=True, example="on",
        help="give memory back while others need it, and take it again",
        doc="Experts shrink before memory runs out, by MemAvailable, cgroup limits and PSI, and grow when it has been "
        "free for a while. See [memory.md](memory.md).",
    )
    warm_start: str | None = option(
        fitting.WorkloadName(), example="chat",
        help="preload the experts that a workload of this name used in earlier runs",
        doc="They are read into free memory behind the reads of requests, most used first, and what this run uses is "
        "remembered for the next. See [memory.md](memory.md).",
    )
    tier: int = option(
        Tier(), AUTO, default_text="the deepest stored, never bf16", auto=fitting.deepest_tier,
        require=fitting.stored_tier, fit=fitting.nearest_tier, in_profile=True, example="4",
        help="precision of experts that counts as full, in bits",
        doc="A bundle stores one record an expert, of which 2, 4, 6 and 8 bits are prefixes. `lossless` always reads "
        "this tier. A profile's tier is cut to what the bundle has.",
    )
    policy: str = option(
        Named(POLICIES, fitting.check_policy), "lossless",
        in_profile=True, is_live=True, example="hobbit:t1=0.6,t2=0.9",
        help="which experts to read at which tier",
        doc="Parameters and sources: [policies.md](policies.md).",
    )
    max_kld: float | None = option(
        Number(high=10.0, unit="nats a token"), default_text="no budget", is_live=True, example="0.02",
        help="quality budget of the rate-distortion policy, which it selects",
        doc="Kullback-Leibler divergence from the full tier that a token may cost on average. A `--policy` beats a "
        "budget from a weaker source.",
    )
    base_resident: bool = option(
        Switch(), "off", is_live=True, example="on",
        help="keep every expert in memory at its lowest tier, so that a miss does not wait",
        doc="Selects `rate-distortion`. A use that lacks planes is computed without them, unless `--max-kld` asks to "
        "wait; they are read in the background and serve from the layer's next pass on. Memory has to hold the lowest "
        "tier of all experts: `hobbit plan` says how much that is. See [policies.md](policies.md).",
    )
    eviction: str = option(
        Named(EVICTION_RULES, fitting.check_eviction), "next-use", in_profile=True, is_live=True,
        example="lru",
        help="which expert leaves the cache when room is needed",
        doc="Parameters and sources: [policies.md](policies.md). `rate-distortion` and `layer-sizes` need a calibrated "
        "bundle.",
    )
    prefetch: str = option(
        Named(PREDICTORS, fitting.check_prefetch), AUTO, auto=fitting.left_open, in_profile=True, is_live=True,
        default_text="lookahead:depth=1",
        example="lookahead:depth=2",
        help="which experts to read before they are asked for",
        doc="Changes no token: a policy that looks at what is resident is shown what would be without reads ahead. "
        "`auto` is `off` for bundles whose exporter did not store the routers' part.",
    )
    backend: str = option(
        fitting.BackendName(), AUTO, default_text="cpu", auto=fitting.backend_of_machine,
        require=fitting.available_backend, in_profile=True, example="cpu",
        help="where to compute",
        doc="`auto` is the CPU. Where there is an NVIDIA GPU it says, once, why that is not used; so do `passed_over` "
        "of `--json` and `hobbit_backend_passed_over`. `cuda` takes settings: `cuda:memory=device,trunk=cpu`, see "
        "[cuda.md](cuda.md).",
    )
    trunk: str = option(
        Choice("auto", "native", "onnx"), "auto", in_profile=True, example="onnx",
        help="what computes the dense part on the CPU",
        doc="`native` are kernels of our own: attention, recurrences, norms, dense networks, routers, head. `onnx` is "
        "ONNX Runtime, which runs every model. `auto` takes the native ones where they compute all of a model.",
    )
    threads: int = option(
        Count(high=1024), AUTO, default_text="the CPUs this process may use", auto=fitting.all_cpus,
        require=fitting.warn_of_more_threads_than_cpus,
        in_profile=True, example="3",
        help="compute threads",
    )
    io_threads: int = option(
        Count(high=256), "8", auto=lambda _: 8, in_profile=True, example="7",
        help="reads under way at once",
    )
    read_chunk: int = option(
        Size(), "1MiB", in_profile=True, example="512KiB",
        help="largest single read",
    )
    direct_io: bool = option(
        Switch(), "on", in_profile=True, example="off",
        help="read experts past the page cache",
    )
    overlap: bool = option(
        Switch(), "on", in_profile=True, example="off",
        help="compute experts that are in memory while others are read",
        doc="Where drive and processor share a narrow memory, one after the other can be faster: `hobbit tune` "
        "measures it.",
    )
    context: int = option(
        Count(), "4096", auto=fitting.context_limit, require=fitting.within_context, fit=fitting.cut_context,
        in_profile=True, unit="tokens", example="64",
        help="tokens of KV cache of one sequence",
        doc="Cut to the model's own limit, unless a flag or a variable asks for more: that is refused. `auto` is the "
        "model's limit.",
    )
    parallel: int = option(
        Count(high=64), "1", example="3",
        help="sequences that `serve` decodes together, each with a KV cache",
    )
    prefill_chunk: int = option(
        Count(), AUTO, default_text="as many as the memory plan allows", auto=lambda _: 0, in_profile=True,
        unit="tokens", example="64",
        help="tokens of a prompt in one pass",
    )
    speculate: str = option(
        Word("off", "ngram", "auto"), "off", in_profile=True, example="auto",
        help="check several drafted tokens in one pass",
        doc="Changes no token; `auto`: only while that is measured to be faster ([speculation.md](speculation.md)).",
    )
    seed: int | None = option(
        Count(low=0, high=(1 << 63) - 1), default_text="drawn for each request", example="5",
        help="seed of sampling",
    )
    power_meter: str = option(
        Named(POWER_METERS, fitting.check_power_meter), AUTO, auto=lambda _: AUTO,
        default_text="the first of ina, rapl and battery that gives figures", example="ina:hz=20",
        help="what measures power",
        doc="Samples in the background, 10 times a second or `hz`; `root` is the folder under which /sys is. Where "
        "nothing can be read, energy is not measured, and nothing is estimated in its place. See [power.md](power.md).",
    )
    logits_chunk: int = 32
    """Tokens a pass when logits of every token are wanted; not an option."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ServiceOptions:
    """Options of `hobbit serve` beside the engine's."""

    host: str | None = option(
        Text("ADDR"), default_text="127.0.0.1", example="127.0.0.2",
        help="address to listen on; beyond this machine only with an API key",
    )
    port: int | None = option(
        Count(low=0, high=65535), default_text="8080", example="9000",
        help="port to listen on; 0 takes a free one",
    )
    socket: Path | None = option(File("PATH"), example="/run/hobbit.sock", help="unix socket to listen on instead")
    api_key_file: Path | None = option(
        File(), example="/etc/hobbit-edge/api-key", help="require one of the keys in this file, one a line",
    )
    allow_origin: tuple[str, ...] = option(
        Origins(), "", example="http://localhost:3000",
        help="let web pages of this origin use the API; repeatable",
        doc="Without it no page but the server's own can. A variable holds several origins, separated by spaces. `*` "
        "stands for every page there is and needs `--api-key-file`.",
    )
    model_name: str | None = option(
        Text("ID"), default_text="the bundle's folder name", example="tiny", help="id of the model",
    )
    max_waiting: int = option(
        Count(low=0, high=4096), "16", unit="requests", example="3",
        help="requests that may wait; more are refused with 429",
    )
    max_tokens_limit: int | None = option(
        Count(high=1 << 31), default_text="what the context leaves", unit="tokens", example="64",
        help="most tokens a request may ask for",
    )
    time_limit: float = option(
        Number("S", high=1e6, unit="seconds"), "600", example="5",
        help="longest time of a request in seconds; 0: no limit",
    )
    body_limit: int = option(Size(), "2MiB", example="1MiB", help="largest request body")
    drain_timeout: float = option(
        Number("S", high=86400, unit="seconds"), "90", example="5",
        help="seconds to finish requests when stopping",
    )
    settings: Path | None = option(
        File(), example="/etc/hobbit-edge/hobbit.env",
        help="NAME=value lines read at start and at SIGHUP",
        doc="Its lines come before the variables of the process. `HOBBIT_SETTINGS` in the file itself has no effect.",
    )
    log_format: str = option(Choice("text", "json"), "text", example="json", help="form of the log on stderr")
    verify: bool = option(
        Switch(), "on", example="off",
        help="check every hash before taking requests, once for each change of the bundle",
    )

# fmt: on

FOREIGN = {
    "HOBBIT_BUNDLE": "the unit file's: the bundle it hands to `hobbit serve`",
    "HOBBIT_BIN": "test scripts': the folder of the commands",
    "HOBBIT_TINY": "test scripts': a small checkpoint",
}
"""Variables that are no options but may stand in the environment of a command."""
FREE_PREFIX = "HOBBIT_X_"
"""Begins names that are never read and never refused: for scripts around the commands."""

ENGINE_OPTIONS = options_of(RuntimeConfig)
SERVICE_OPTIONS = options_of(ServiceOptions)
COMMAND_OPTIONS = options_of(CommandOptions)
OPTIONS = (*ENGINE_OPTIONS, *SERVICE_OPTIONS, *COMMAND_OPTIONS)
BY_NAME = {option.name: option for option in OPTIONS}
