"""CUDA: expert kernels and the driver they are started through. Not a backend yet: nothing selects it.

Nothing here is imported unless asked for, and importing it loads no library of NVIDIA's. docs/cuda.md says what has
been shown, and on what.
"""
