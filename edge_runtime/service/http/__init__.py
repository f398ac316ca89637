"""HTTP itself: sockets, connections, limits, the application. Knows nothing of models."""
