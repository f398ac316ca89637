"""The trunk on the GPU: softmax attention, norms, dense networks and head, from the bundle's own weights."""
