"""The trunk on native kernels: norms, softmax attention, dense networks, routers and head, from the bundle's graphs."""
