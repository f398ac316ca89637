"""ggml's CPU matrix products by ctypes, for `bench_kernels_peer.py`: weights of one type in one kind of buffer.

The libraries (libggml-base, libggml-cpu) are a folder the caller names. Only functions of ggml's public headers are
used; a library that lacks one is refused by name.
"""

from __future__ import annotations

import ctypes
from ctypes import c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

TYPES = {"f32": 0, "q4_0": 2, "q8_0": 8, "q2_K": 10, "q4_K": 12, "i32": 26}
MADV_HUGEPAGE = 14
Matrix = tuple[int, int]  # rows, columns

_SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "ggml_new_tensor_2d": (c_void_p, [c_void_p, c_int, c_int64, c_int64]),
    "ggml_new_tensor_3d": (c_void_p, [c_void_p, c_int, c_int64, c_int64, c_int64]),
    "ggml_mul_mat": (c_void_p, [c_void_p, c_void_p, c_void_p]),
    "ggml_mul_mat_id": (c_void_p, [c_void_p, c_void_p, c_void_p, c_void_p]),
    "ggml_new_graph_custom": (c_void_p, [c_void_p, c_size_t, c_bool]),
    "ggml_build_forward_expand": (None, [c_void_p, c_void_p]),
    "ggml_nbytes": (c_size_t, [c_void_p]),
    "ggml_free": (None, [c_void_p]),
    "ggml_quantize_chunk": (c_size_t, [c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p]),
    "ggml_backend_cpu_init": (c_void_p, []),
    "ggml_backend_cpu_set_n_threads": (None, [c_void_p, c_int]),
    "ggml_backend_cpu_set_threadpool": (None, [c_void_p, c_void_p]),
    "ggml_backend_cpu_buffer_type": (c_void_p, []),
    "ggml_backend_cpu_buffer_from_ptr": (c_void_p, [c_void_p, c_size_t]),
    "ggml_backend_cpu_reg": (c_void_p, []),
    "ggml_backend_reg_dev_get": (c_void_p, [c_void_p, c_size_t]),
    "ggml_backend_reg_get_proc_address": (c_void_p, [c_void_p, c_char_p]),
    "ggml_backend_buft_name": (c_char_p, [c_void_p]),
    "ggml_backend_alloc_ctx_tensors_from_buft": (c_void_p, [c_void_p, c_void_p]),
    "ggml_backend_buffer_get_base": (c_void_p, [c_void_p]),
    "ggml_backend_buffer_get_size": (c_size_t, [c_void_p]),
    "ggml_backend_buffer_free": (None, [c_void_p]),
    "ggml_backend_tensor_set": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_tensor_get": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_graph_compute": (c_int, [c_void_p, c_void_p]),
}  # fmt: skip


class _InitParams(ctypes.Structure):
    _fields_ = [("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool)]


class _ThreadpoolParams(ctypes.Structure):  # ggml_threadpool_params
    _fields_ = [
        ("cpumask", c_bool * 512), ("n_threads", c_int), ("prio", c_int), ("poll", ctypes.c_uint32),
        ("strict_cpu", c_bool), ("paused", c_bool),
    ]  # fmt: skip


class Ggml:
    """The loaded libraries and one CPU backend."""

    def __init__(self, folder: Path) -> None:
        libraries = []
        for name in ("libggml-base.so", "libggml-cpu.so"):
            path = folder / name
            if not path.exists():
                raise SystemExit(
                    f"bench_kernels_peer: {folder} has no {name}. Name a folder of a shared build of ggml "
                    "(BUILD_SHARED_LIBS=ON, GGML_NATIVE=ON, without GGML_BACKEND_DL)"
                )
            libraries.append(ctypes.CDLL(str(path.resolve()), mode=ctypes.RTLD_GLOBAL))
        for name, (result, arguments) in _SIGNATURES.items():
            found = [library for library in libraries if hasattr(library, name)]
            if not found:
                raise SystemExit(f"bench_kernels_peer: the libraries in {folder} have no function {name}")
            function = getattr(found[0], name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name[5:], function)
        init = libraries[0].ggml_init
        init.restype, init.argtypes = c_void_p, [_InitParams]
        self._init = init
        self._libraries = libraries
        self._quiet = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)(lambda _level, _text, _data: None)
        libraries[0].ggml_log_set(self._quiet, c_void_p(None))  # a line for every tensor repacked
        self.backend = self.backend_cpu_init()
        self._pools: dict[int, int] = {}

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)  # what exists was set by __init__

    def context(self, tensors: int) -> int:
        """Return a context without data for about so many tensors, and a graph of as many nodes."""
        return int(self._init(_InitParams(tensors * 1024 + (1 << 20), None, True)))

    def buffer_types(self) -> dict[str, int]:
        """Return kinds of buffers by name: "plain", and "repack" where the build has it for this processor."""
        types = {"plain": self.backend_cpu_buffer_type()}
        address = self.backend_reg_get_proc_address(self.backend_cpu_reg(), b"ggml_backend_dev_get_extra_bufts")
        if address:
            listed = ctypes.CFUNCTYPE(ctypes.POINTER(c_void_p), c_void_p)(address)
            extra = listed(self.backend_reg_dev_get(self.backend_cpu_reg(), 0))
            at = 0
            while extra[at]:
                if self.backend_buft_name(extra[at]) == b"CPU_REPACK":
                    types["repack"] = extra[at]
                at += 1
        return types

    def use_threads(self, count: int) -> None:
        """Compute with a pool of so many threads that polls for work, as llama.cpp's does."""
        if count not in self._pools:
            base, cpu = self._libraries
            base.ggml_threadpool_params_default.restype = _ThreadpoolParams
            params = base.ggml_threadpool_params_default(c_int(count))
            cpu.ggml_threadpool_new.restype = c_void_p
            self._pools[count] = cpu.ggml_threadpool_new(ctypes.byref(params))
        self.backend_cpu_set_n_threads(self.backend, count)
        self.backend_cpu_set_threadpool(self.backend, self._pools[count])


class PeerWeights:
    """Layers of E experts (gate, up [I, D], down [D, I]) of one type, and graphs that compute with them."""

    def __init__(self, ggml: Ggml, kind: str, buffer: str, shape: Matrix, layers: int, experts: int) -> None:
        self.ggml, self.hidden, self.intermediate, self.experts = ggml, *shape, experts
        self._context = ggml.context(8 * layers)
        gate, down = (self.hidden, self.intermediate), (self.intermediate, self.hidden)
        self._matrices = [
            [ggml.new_tensor_3d(self._context, TYPES[kind], *dims, experts) for dims in (gate, gate, down)]
            for _ in range(layers)
        ]
        self._buffer = ggml.backend_alloc_ctx_tensors_from_buft(self._context, ggml.buffer_types()[buffer])
        if not self._buffer:
            raise SystemExit(f"bench_kernels_peer: ggml cannot allocate {layers} layers of {kind} ({buffer})")
        ctypes.CDLL(None).madvise(
            c_void_p(-(-ggml.backend_buffer_get_base(self._buffer) // 4096) * 4096),
            c_size_t(ggml.backend_buffer_get_size(self._buffer) // 4096 * 4096),
            c_int(MADV_HUGEPAGE),
        )  # as our side has it
        rng = np.random.default_rng(0)
        source = (rng.standard_t(5, self.hidden * self.intermediate) * 0.02).astype(np.float32)
        self.nbytes = 0
        packed: dict[Matrix, np.ndarray] = {}
        for layer in self._matrices:
            for tensor, dims in zip(layer, (gate, gate, down), strict=True):
                if dims not in packed:
                    one, rows = np.empty(ggml.nbytes(tensor) // experts, np.uint8), source.size // dims[0]
                    ggml.quantize_chunk(TYPES[kind], source.ctypes.data, one.ctypes.data, 0, rows, dims[0], None)
                    packed[dims] = np.tile(one, experts)
                ggml.backend_tensor_set(tensor, packed[dims].ctypes.data, 0, packed[dims].size)
                self.nbytes += packed[dims].size
        self._graphs: list[tuple[int, int]] = []

    def decode_graph(self, top_k: int) -> int:
        """Return a graph: one token through `top_k` experts at a time of every layer, until all were used.

        It is what llama.cpp computes (`mul_mat_id`), less its elementwise nodes: down takes rows of its own.
        """
        g, context, values = self.ggml, self.ggml.context(32 * len(self._matrices) * (self.experts // top_k + 1)), []
        x = g.new_tensor_3d(context, TYPES["f32"], self.hidden, 1, 1)
        h = g.new_tensor_3d(context, TYPES["f32"], self.intermediate, top_k, 1)
        chosen = [g.new_tensor_2d(context, TYPES["i32"], top_k, 1) for _ in range(self.experts // top_k)]
        for gate, up, down in self._matrices:
            for ids in chosen:
                values += [g.mul_mat_id(context, gate, x, ids), g.mul_mat_id(context, up, x, ids)]
                values.append(g.mul_mat_id(context, down, h, ids))
        graph = self._finish(context, values)
        for n, ids in enumerate(chosen):
            self._set(ids, np.arange(n * top_k, (n + 1) * top_k, dtype=np.int32))
        for tensor, size in ((x, self.hidden), (h, self.intermediate * top_k)):
            self._set(tensor, np.random.default_rng(1).standard_normal(size).astype(np.float32))
        return graph

    def prefill_graph(self, tokens: int) -> int:
        """Return a graph: `tokens` rows through the one expert (E = 1) of every layer, with `mul_mat`."""
        if self.experts != 1:
            raise ValueError(f"prefill_graph: expected layers of 1 expert, got {self.experts}")
        g, context, values = self.ggml, self.ggml.context(16 * len(self._matrices)), []
        x = g.new_tensor_2d(context, TYPES["f32"], self.hidden, tokens)
        h = g.new_tensor_2d(context, TYPES["f32"], self.intermediate, tokens)
        for gate, up, down in self._matrices:
            values += [g.mul_mat(context, gate, x), g.mul_mat(context, up, x), g.mul_mat(context, down, h)]
        graph = self._finish(context, values)
        for tensor, size in ((x, self.hidden), (h, self.intermediate)):
            self._set(tensor, np.random.default_rng(1).standard_normal((tokens, size)).astype(np.float32))
        return graph

    def _finish(self, context: int, values: list[int]) -> int:
        graph = self.ggml.new_graph_custom(context, 2 * len(values) + 16, False)
        for value in values:
            self.ggml.build_forward_expand(graph, value)
        plain = self.ggml.buffer_types()["plain"]
        self._graphs.append((context, self.ggml.backend_alloc_ctx_tensors_from_buft(context, plain)))
        return int(graph)

    def _set(self, tensor: int, data: np.ndarray) -> None:
        self.ggml.backend_tensor_set(tensor, data.ctypes.data, 0, data.nbytes)

    def compute(self, graph: int) -> None:
        """Run a graph; refuse a status other than success."""
        status = self.ggml.backend_graph_compute(self.ggml.backend, graph)
        if status != 0:
            raise SystemExit(f"bench_kernels_peer: ggml_backend_graph_compute returned {status}")

    def free(self) -> None:
        """Give the memory back."""
        for context, buffer in self._graphs:
            self.ggml.backend_buffer_free(buffer)
            self.ggml.free(context)
        self.ggml.backend_buffer_free(self._buffer)
        self.ggml.free(self._context)
