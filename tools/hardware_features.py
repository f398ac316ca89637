"""What docs/hardware.md lists: features, and for each place what shows there that it works.

A place is a kind of machine. What shows a feature is a selection of tests, or a target of the Makefile. What ran is in
result files (`hardware_run.py`); this table only says what would have to run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PLACES: Mapping[str, str] = {
    "x86": "x86 CPU",
    "arm64-emulated": "emulated arm64",
    "cuda-emulated": "emulated CUDA",
}
"""Kinds of machine that hardware_run.py runs on, by name, as the page calls them. Any other place is a real device."""
COMPILERS = "benchmarks/results/gpu_compile.json"
_ARM = ("bash", "tests/arm/run.sh")


def tests(*paths: str) -> tuple[str, ...]:
    """Return the command of a selection of tests."""
    return ("pytest", *(f"tests/{path}" for path in paths))


@dataclass(frozen=True)
class Feature:
    """A row of the page.

    Attributes:
        name: in result files.
        title: on the page.
        checks: by place, the command that shows it: ``pytest PATH...``, or ``bash SCRIPT``.
    """

    name: str
    title: str
    checks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def _cuda(*paths: str) -> Mapping[str, tuple[str, ...]]:
    return {"cuda-emulated": tests(*(f"cuda/{path}" for path in paths))}


FEATURES: tuple[Feature, ...] = (
    Feature(
        "expert-kernels", "expert kernels of the CPU, 2 to 8 bits and bfloat16",
        {"x86": tests("unit/test_kernels.py", "unit/test_kernel_variants.py"), "arm64-emulated": _ARM},
    ),
    Feature("encoder", "expert encoder", {"x86": tests("unit/test_encoder.py"), "arm64-emulated": _ARM}),
    Feature(
        "drive-reader", "reader of the drive (io_uring on x86, threads on emulated arm64)",
        {"x86": tests("unit/test_cache.py", "unit/test_host_slots.py"), "arm64-emulated": _ARM},
    ),
    Feature(
        "native-decisions", "table of slots, router's rule, choice for a token",
        {"x86": tests("unit/test_residency.py", "unit/test_router.py"), "arm64-emulated": _ARM},
    ),
    Feature("trunk", "trunk on ONNX Runtime's CPU provider", {"x86": tests("integration/test_trunk_numerics.py")}),
    Feature(
        "native-trunk", "trunk of our own kernels on the CPU",
        {"x86": tests("integration/test_native_trunk.py"), "arm64-emulated": _ARM},
    ),
    Feature(
        "streamed", "whole model, experts streamed, at several sizes of cache",
        {"x86": tests("integration/test_placement.py")},
    ),
    Feature("memory-ceiling", "memory ceiling by cgroup", {"x86": tests("integration/test_memory_ceiling.py")}),
    Feature("service", "HTTP service", {"x86": tests("integration/test_service_together.py")}),
    Feature(
        "cuda-primitives", "CUDA: device-only functions against tables",
        _cuda("test_gpu_check.py", "test_gpu_check_result.py", "test_layer_kernels.py"),
    ),
    Feature(
        "cuda-experts", "CUDA: experts of one token and of several, every tier and form",
        _cuda("test_expert_kernels.py", "test_experts.py"),
    ),
    Feature("cuda-reads", "CUDA: each byte of a record read once", _cuda("test_reads.py")),
    Feature(
        "cuda-trunk", "CUDA: trunk of our own kernels",
        _cuda(
            "test_layer_kernels.py", "test_trunk_kernels.py", "test_state_kernels.py", "test_latent_kernels.py",
            "test_families.py",
        ),
    ),
    Feature(
        "cuda-sanitisers", "CUDA: kernels under sanitisers, and faults planted in them, each of which is found",
        _cuda("test_planted_faults.py", "test_kernel_lists.py"),
    ),
    Feature(
        "cuda-cubins", "CUDA: kernels compiled at first use, kept, refused and compiled anew",
        _cuda("test_cubins.py", "test_nvrtc.py"),
    ),
    Feature(
        "cuda-unasked", "CUDA: nothing of NVIDIA's is loaded unasked, and what is missing is named",
        _cuda("test_unasked.py", "test_presence.py", "test_known.py"),
    ),
    Feature(
        "cuda-driver", "CUDA: driver layer, streams, events, errors",
        _cuda("test_driver.py", "test_driver_errors.py", "test_cuda_header.py"),
    ),
    Feature(
        "cuda-closing", "CUDA: what closes with a GPU; none is open beside what is measured",
        _cuda("test_device_closing.py", "test_measuring_verbs.py"),
    ),
    Feature(
        "cuda-memory", "CUDA: kinds of memory tried with an expert and timed, and the choice; each byte counted once",
        _cuda("test_memory_probe.py", "test_memory_once.py"),
    ),
    Feature("cuda-loop", "CUDA: decode loop, streamed and resident, three kinds of memory", _cuda("test_decode.py")),
    Feature("cuda-routing", "CUDA: layers routed on the device", _cuda("test_resident_router.py")),
    Feature("cuda-graphs", "CUDA: a token as one graph", _cuda("test_graphs.py")),
    Feature(
        "tensorrt-lowering", "TensorRT: graphs of every family lowered, held against tables, computing the same",
        _cuda("test_tensorrt_lowering.py"),
    ),
    Feature(
        "tensorrt-faults", "TensorRT: faults planted in the rules that lower graphs, each of which is found",
        _cuda("test_lowering_faults.py"),
    ),
    Feature(
        "tensorrt-trunk", "TensorRT: the trunk as engines; emulated, over a fake TensorRT",
        _cuda("test_tensorrt_trunk.py", "test_tensorrt_plans.py", "test_tensorrt_scratch.py"),
    ),
    Feature(
        "tensorrt-built", "TensorRT: plans built by TensorRT for RTX; bindings of 10.3 and 10.16",
        _cuda("test_tensorrt_rtx.py", "test_tensorrt_bindings.py"),
    ),
    Feature(
        "onnx-provider", "ONNX Runtime's CUDA provider: operators tried, the trunk on it; emulated, over a stand-in",
        _cuda("test_onnx_provider.py"),
    ),
    Feature(
        "cuda-errors", "CUDA: injected errors and planted faults of the host",
        _cuda("test_engine_errors.py", "test_engine_faults.py", "test_host_faults.py"),
    ),
)  # fmt: skip

ON_A_GPU: Mapping[str, tuple[str, ...]] = {
    "self_test": ("cuda-primitives",),
    "checks": ("cuda-experts", "cuda-trunk"),
    "memory": ("cuda-memory",),
    "demo": ("cuda-loop", "cuda-routing"),
    "graphs": ("cuda-graphs",),
    "tensorrt": ("tensorrt-trunk",),
    "onnx": ("onnx-provider",),
}
"""Which features each part of `make gpu-check` shows, by its key in the result file. Nothing there injects errors, so
the row of the driver layer is not among them."""

BY_USE: Mapping[str, tuple[str, ...]] = {
    "demo": ("encoder",),
    "verify": ("expert-kernels", "drive-reader"),
    "bench cpu": ("expert-kernels", "drive-reader", "native-decisions"),
    "bench cpu streamed": ("expert-kernels", "drive-reader", "native-decisions", "streamed"),
}
"""Which features a step of a bring-up cannot do without. Of the GPU's there are none: a benchmark computes whatever the
numbers are, and `make gpu-check` compares them."""
TRUNKS: Mapping[str, tuple[str, ...]] = {"native": ("native-trunk",), "onnx": ("trunk",)}
"""By what a benchmark on the CPU says of its trunk."""


def feature_named(name: str) -> Feature:
    """Return a row by its name.

    Raises:
        KeyError: there is none.
    """
    return {feature.name: feature for feature in FEATURES}[name]
