"""CUDA: experts on an NVIDIA GPU, and the driver they are started through.

Nothing here is imported unless asked for, and importing it loads no library of NVIDIA's. docs/cuda.md says what has
been shown, and on what.
"""
