"""The checks, by what they look at. Importing this registers them all, in this order."""

from edge_runtime.lab.doctor.checks import board, memory, drive, link, power, heat, gpu, packages, system  # noqa: F401, I001
