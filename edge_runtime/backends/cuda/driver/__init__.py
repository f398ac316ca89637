"""A binding of the CUDA driver by ctypes: what the runtime calls, every call checked.

`Device` is where to start. `libcuda.so.1` is loaded when one is made; no package of NVIDIA's is needed.
"""

from edge_runtime.backends.cuda.driver.device import Device
from edge_runtime.backends.cuda.driver.errors import CudaContextLostError, CudaError, CudaMemoryError
from edge_runtime.backends.cuda.driver.library import Driver
from edge_runtime.backends.cuda.driver.memory import DeviceMemory, PinnedMemory, RegisteredMemory
from edge_runtime.backends.cuda.driver.module import Kernel, Module
from edge_runtime.backends.cuda.driver.stream import Event, Graph, Stream

__all__ = [
    "CudaContextLostError",
    "CudaError",
    "CudaMemoryError",
    "Device",
    "DeviceMemory",
    "Driver",
    "Event",
    "Graph",
    "Kernel",
    "Module",
    "PinnedMemory",
    "RegisteredMemory",
    "Stream",
]
