"""Compare every device-only function of the kernels with what it should do, on the device itself.

To be run first on a GPU nobody has tried: loads, mixed-sign products, tensor-core fragments and conversions are where
an emulation on a CPU and the hardware could differ.
"""

from __future__ import annotations

import ctypes

import numpy as np

from edge_runtime.backends.cuda.driver import Device, DeviceMemory, Module, Stream
from edge_runtime.base.arrays import F32, I8, U32
from edge_runtime.base.errors import DeviceError

_LANES, _WORDS = 32, 16
_FLOATS = (
    0.5,
    1.5,
    -2.5,
    126.5,
    -127.49,
    3e9,
    -3e9,
    np.nan,
    np.inf,
    -np.inf,
    1e-40,
    2147483520.0,
    -0.0,
    7.0,
    0.49999997,
)
FUNCTIONS = (
    "load16", "load16", "load16", "load16", "load8", "load8", "load4", "dot4_us", "__dp4a", "__float2int_rn",
    "mma_s8", "mma_s8", "mma_s8", "mma_s8", "permute", "shuffles or select_bits",
)  # fmt: skip
"""What each word of a lane's output comes from."""


def make_inputs(seed: int) -> U32:
    """Return inputs of the self-test kernel, uint32 [32, 16]; kernels/self_test.cuh says what each word is."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 1 << 32, (_LANES, _WORDS), np.uint32)
    words[:, 6] = np.resize(np.array(_FLOATS, np.float32), _LANES).view(np.uint32)
    words[:, 13] &= 0xFFFF
    return words


def expected_outputs(words: U32) -> U32:
    """Return what the self-test kernel should write for inputs, uint32 [32, 16]."""
    out = np.empty_like(words)
    out[:, 0:4], out[:, 4:6], out[:, 6] = words[:, 0:4], words[:, 0:2], words[:, 1]
    a, b = _bytes(words[:, 4]), _bytes(words[:, 5])
    out[:, 7] = (a.view(np.uint8).astype(np.int64) * b).sum(1) - 7 & 0xFFFFFFFF
    out[:, 8] = (a.astype(np.int64) * b).sum(1) - 7 & 0xFFFFFFFF
    out[:, 9] = _to_int(words[:, 6].view(np.float32))
    out[:, 10:14] = _mma(words)
    out[:, 14] = _permute(words)
    out[:, 15] = _shuffles(words)
    return out


def _bytes(words: U32) -> I8:
    return np.ascontiguousarray(words).view(np.int8).reshape(len(words), -1)


def _to_int(values: F32) -> U32:
    """Round to nearest even, saturate; NaN gives 0."""
    finite = np.nan_to_num(values.astype(np.float64), nan=0.0)
    return np.clip(np.rint(finite), -(2**31), 2**31 - 1).astype(np.int64).astype(np.int32).view(np.uint32)


def _mma(words: U32) -> U32:
    """Fragments of mma.m16n8k32 as the PTX ISA lays them out; lane 4 g + t."""
    a, b = np.zeros((16, 32), np.int64), np.zeros((32, 8), np.int64)
    for lane in range(_LANES):
        g, t = divmod(lane, 4)
        for i in range(4):
            a[g + 8 * (i % 2), 16 * (i // 2) + 4 * t :][:4] = _bytes(words[lane : lane + 1, 7 + i])[0]
        for i in range(2):
            b[16 * i + 4 * t :, g][:4] = _bytes(words[lane : lane + 1, 11 + i])[0]
    product = a @ b
    out = np.empty((_LANES, 4), np.int64)
    for lane in range(_LANES):
        g, t = divmod(lane, 4)
        out[lane] = [product[g + 8 * (i // 2), 2 * t + i % 2] + i + 1 for i in range(4)]
    return (out & 0xFFFFFFFF).astype(np.uint32)


def _permute(words: U32) -> U32:
    sources = np.ascontiguousarray(words[:, 4:6]).view(np.uint8)
    out = np.zeros((len(words), 4), np.uint8)
    for i in range(4):
        selector = words[:, 13] >> (4 * i) & 15
        byte = np.take_along_axis(sources, (selector & 7)[:, None].astype(np.int64), 1)[:, 0]
        out[:, i] = np.where(selector & 8, np.where(byte & 128, 255, 0), byte)
    result: U32 = out.view(np.uint32)[:, 0]
    return result


def _shuffles(words: U32) -> U32:
    lanes, values = np.arange(_LANES), words[:, 4]
    below = values[np.where(lanes + 3 < _LANES, lanes + 3, lanes)]
    mixed = values[lanes ^ 5] ^ (below << np.uint32(1)) ^ (values[lanes * 7 % _LANES] << np.uint32(2))
    result: U32 = (mixed & words[:, 14]) | (words[:, 5] & ~words[:, 14])
    return result


def check_primitives(device: Device, module: Module, seed: int = 0) -> None:
    """Run the self-test kernel and compare.

    Args:
        device: the GPU.
        module: the kernels.
        seed: of the inputs.

    Raises:
        DeviceError: a function gives something else; names it and the first lane.
    """
    inputs, got = make_inputs(seed), np.zeros((_LANES, _WORDS), np.uint32)
    stream = Stream(device)
    with DeviceMemory(device, inputs.nbytes) as given, DeviceMemory(device, got.nbytes) as out:
        given.write(inputs, stream)
        arguments = ctypes.c_uint64(given.address), ctypes.c_uint64(out.address)
        module.kernel("hb_self_test").launch(stream, (1, 1), _LANES, *arguments)
        out.read(got, stream)
        stream.synchronize()
    stream.close()
    wrong = np.argwhere(got != expected_outputs(inputs))
    if len(wrong):
        lane, word = wrong[0].tolist()
        raise DeviceError(
            f"cuda: self-test of {device.name}: {FUNCTIONS[word]} gives {got[lane, word]:#x} in lane {lane}, expected "
            f"{expected_outputs(inputs)[lane, word]:#x}. Use the CPU backend and report this message."
        )
