"""Device profiles as YAML; installed as `edge_runtime.profiles`, read by `edge_runtime.config.profiles`."""
