"""What a Jetson gets from NVIDIA's package sources, where several places have to say it."""

DRIVER_LIBRARY = "sudo apt install nvidia-l4t-cuda (or nvidia-jetpack, for everything)"
"""How libcuda.so.1 gets onto a Jetson: the package is part of its board support; the other brings all of JetPack."""
