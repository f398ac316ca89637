"""Compiled kernels: taken from a folder, or compiled at first use and kept there.

A file is named by the architecture and by a fingerprint of the source, so a folder may be filled on another machine and
hold kernels for several GPUs. Which compiler made it does not matter. ADR 84 has the reasons.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from edge_runtime.backends.cuda.driver import CudaError, Device, Module
from edge_runtime.backends.cuda.driver.errors import IMAGE_REFUSED
from edge_runtime.backends.cuda.nvrtc import Nvrtc, dotted, too_new
from edge_runtime.backends.cuda.sources import KernelSource, read_source
from edge_runtime.base.errors import DeviceError

_LOG = logging.getLogger(__name__)
_DIGEST_BYTES = 32


def cache_folder() -> Path:
    """Where compiled kernels are kept: systemd's CACHE_DIRECTORY, XDG_CACHE_HOME, the user's own or /var/cache."""
    given = os.environ.get("CACHE_DIRECTORY") or os.environ.get("XDG_CACHE_HOME")
    if given:
        return Path(given.split(":")[0]) / "hobbit-edge" / "kernels"
    try:
        return Path.home() / ".cache" / "hobbit-edge" / "kernels"
    except RuntimeError:  # no HOME, and a user id without an account, as in a container
        return Path("/var/cache/hobbit-edge/kernels")


def cubin_name(source: KernelSource, arch: str) -> str:
    """Return the name of the file that holds a source compiled for an architecture."""
    return f"hobbit-{arch}-{source.fingerprint(arch)[:24]}.cubin"


def write_cubin(path: Path, image: bytes) -> None:
    """Write compiled kernels behind their SHA-256, in one step.

    Raises:
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(hashlib.sha256(image).digest() + image)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def read_cubin(path: Path) -> bytes | None:
    """Return compiled kernels; None where there are none, or the file is damaged."""
    try:
        whole = path.read_bytes()
    except OSError:
        return None
    digest, image = whole[:_DIGEST_BYTES], whole[_DIGEST_BYTES:]
    if not image or hashlib.sha256(image).digest() != digest:
        _LOG.warning("cuda: %s is damaged and will be made again", path)
        return None
    return image


def digest_of(path: Path) -> bytes:
    """Return what names the code in a file that `read_cubin` took; b"" where there is none."""
    try:
        with open(path, "rb") as file:
            return file.read(_DIGEST_BYTES)
    except OSError:
        return b""


def load_kernels(
    device: Device,
    *,
    folder: Path | None = None,
    source: KernelSource | None = None,
    compiler: Callable[[], Nvrtc] = Nvrtc,
) -> Module:
    """Load the kernels for a GPU, compiling them if the folder has none the driver takes.

    Args:
        device: the GPU.
        folder: where they are kept; `cache_folder` if left out.
        source: the kernels' text; that of this package if left out.
        compiler: makes the compiler, when it is needed.

    Raises:
        DeviceError: they have to be compiled and cannot be, or the driver refuses what was compiled just now.
    """
    source = read_source() if source is None else source
    path = (cache_folder() if folder is None else folder) / cubin_name(source, device.arch)
    kept = read_cubin(path)
    if kept is not None:
        try:
            return Module(device, kept)
        except CudaError as err:
            if err.code not in IMAGE_REFUSED:
                raise
            _LOG.warning("cuda: the driver refuses %s, compiling again: %s", path, err)
    nvrtc = compiler()
    nvrtc.require(device.arch, device.driver.cuda)
    image, _ = nvrtc.compile(source, device.arch)
    module = _load_new(device, image, nvrtc)
    try:
        write_cubin(path, image)
    except OSError as err:
        _LOG.warning("cuda: compiled kernels cannot be kept in %s: %s", path.parent, err.strerror)
    return module


def _load_new(device: Device, image: bytes, nvrtc: Nvrtc) -> Module:
    """Load what was compiled just now: if the driver refuses that, compiling again would not help."""
    try:
        return Module(device, image)
    except CudaError as err:
        if err.code not in IMAGE_REFUSED:
            raise
        version, driver = nvrtc.version, device.driver
        why = (
            f"NVRTC {dotted(version)} is not newer than the driver, of CUDA {dotted(driver.cuda)}: report the message."
        )
        if version > driver.cuda:
            why = too_new(version, driver.cuda)
        raise DeviceError(
            f"cuda: {err.call} failed with {driver.error_name(err.code)} ({err.code}) for kernels compiled for "
            f"{device.arch} just now. {why}"
        ) from err
