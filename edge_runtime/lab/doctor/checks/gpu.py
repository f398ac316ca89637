"""The way to the GPU: driver, device files, groups, containers, variables."""

from __future__ import annotations

from collections.abc import Iterator

from edge_runtime.backends.cuda.tensorrt.allow_list import version_for, versions
from edge_runtime.base.jetpack import DRIVER_LIBRARY
from edge_runtime.base.sizes import MIB, format_size
from edge_runtime.lab.doctor.device import Device
from edge_runtime.lab.doctor.findings import Found, check

_GROUPS = ("video", "render")
_LEAST_LOCKED = 64 * MIB
_DLA_SINCE = 39
_TENSORRT_LIBRARY = "libnvinfer.so."
_SLOW = {"CUDA_LAUNCH_BLOCKING": ("1",), "CUDA_VISIBLE_DEVICES": ("", "-1")}


@check(
    "container-without-gpu", "error", "a container on a Jetson without the GPU's device files",
    why="Programs in it see no GPU and compute on the CPU.",
    fix="docker run --runtime nvidia ...", where="Jetson, in a container",
)  # fmt: skip
def container_without_gpu(device: Device) -> Iterator[Found]:
    """No /dev/nvhost-gpu, /dev/nvmap, /dev/nvgpu in a container."""
    if device.is_jetson and device.is_in_container and not device.has_gpu_nodes:
        yield Found("there is no /dev/nvhost-gpu, /dev/nvmap or /dev/nvgpu")


@check(
    "gpu-nodes-missing", "error", "a Jetson without the GPU's device files",
    why="The GPU's kernel module is not loaded: nothing can use it.",
    fix="sudo apt install --reinstall nvidia-l4t-kernel nvidia-l4t-init && sudo reboot", where="Jetson",
)  # fmt: skip
def gpu_nodes_missing(device: Device) -> Iterator[Found]:
    """The same outside a container."""
    if device.is_jetson and not device.is_in_container and not device.has_gpu_nodes:
        yield Found("there is no /dev/nvhost-gpu, /dev/nvmap or /dev/nvgpu")


@check(
    "no-driver", "error", "a GPU without NVIDIA's driver library",
    why="libcuda.so.1 is what every CUDA program loads. In a container the runtime has to mount it.",
    fix=f"Jetson: {DRIVER_LIBRARY}; in a container: --runtime nvidia; elsewhere: the driver's package",
    where="with an NVIDIA GPU",
)  # fmt: skip
def no_driver(device: Device) -> Iterator[Found]:
    """Device files, and no libcuda.so.1 where the loader looks."""
    if device.has_gpu_nodes and not device.libraries("libcuda.so.1"):
        yield Found("libcuda.so.1 is in none of the system's library folders")


@check(
    "gpu-groups", "error", "a user who may not open the GPU",
    why="The device files belong to the groups video and render: for others CUDA finds no device.",
    fix="sudo usermod -aG video,render $USER, then log in again", where="with an NVIDIA GPU",
)  # fmt: skip
def gpu_groups(device: Device) -> Iterator[Found]:
    """The process is neither root nor in the groups that exist, and a node of the driver excludes others."""
    fields = dict(line.split(":", 1) for line in device.text("proc/self/status").splitlines() if ":" in line)
    own, user = set(fields.get("Groups", "").split()), fields.get("Uid", "0").split()[0]
    numbers = dict(line.split(":")[0:3:2] for line in device.text("etc/group").splitlines() if line.count(":") == 3)
    missing = [name for name in _GROUPS if name in numbers and numbers[name] not in own]
    if user != "0" and missing and any(not node.stat().st_mode & 0o006 for node in device.gpu_nodes):
        yield Found(f"user {user} is not in {' and '.join(missing)}")


@check(
    "no-dla-compiler", "warning", "TensorRT of Jetson Linux R39 without libnvdla_compiler.so",
    why="TensorRT and ONNX Runtime's provider of it then cannot be imported, while CUDA itself works.",
    fix="sudo apt install nvidia-l4t-dla-compiler; in a container, mount it from the host", where="Jetson R39",
)  # fmt: skip
def no_dla_compiler(device: Device) -> Iterator[Found]:
    """Libnvinfer is there and what it links to is not."""
    is_new = bool(device.board.l4t) and device.board.l4t[0] >= _DLA_SINCE
    if is_new and device.libraries("libnvinfer.so") and not device.libraries("libnvdla_compiler.so"):
        yield Found("libnvinfer.so is there, libnvdla_compiler.so is not")


@check(
    "tensorrt-unknown", "warning", "a TensorRT of a version there is no lowering for",
    why="A trunk is then never run as TensorRT engines; --backend cuda computes it with kernels of its own.",
    fix="install the TensorRT of your JetPack: sudo apt install nvidia-tensorrt python3-libnvinfer",
    where="with TensorRT",
)  # fmt: skip
def tensorrt_unknown(device: Device) -> Iterator[Found]:
    """The version in the library's name is none of the tables of operators, nor a later one of the same major one."""
    names = {path.name.removeprefix(_TENSORRT_LIBRARY) for path in device.libraries(_TENSORRT_LIBRARY)}
    found = sorted(name for name in names if name.count(".") >= 1 and name.replace(".", "").isdigit())
    if found and not any(version_for(name) for name in found):
        known = ", ".join(versions())
        yield Found(f"libnvinfer is TensorRT {', '.join(found)}; there are lowerings for {known} and later ones of 10")


@check(
    "cuda-variables", "warning", "variables that hide the GPU or make CUDA wait",
    why="CUDA_LAUNCH_BLOCKING=1 waits for every kernel, and an empty CUDA_VISIBLE_DEVICES hides every GPU.",
    fix="unset the variable",
)  # fmt: skip
def cuda_variables(device: Device) -> Iterator[Found]:
    """What debugging leaves behind in a shell."""
    for name, values in _SLOW.items():
        value = device.environ.get(name)
        if value is not None and value in values:
            yield Found(f"{name} is {value!r}", f"unset {name}")


@check(
    "locked-memory", "warning", "a limit of locked memory below 64 MiB where a GPU is",
    why="Memory that the GPU reads in place is locked; buffers of io_uring count as well.",
    fix="LimitMEMLOCK=infinity in the unit; in a shell: ulimit -l unlimited, allowed by /etc/security/limits.conf",
    where="with an NVIDIA GPU",
)  # fmt: skip
def locked_memory(device: Device) -> Iterator[Found]:
    """The soft limit of this process."""
    limit = device.limit("Max locked memory")
    if device.has_gpu_nodes and limit is not None and limit < _LEAST_LOCKED:
        yield Found(f"at most {format_size(limit)} may be locked")
