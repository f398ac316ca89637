"""Models by name from a hub: what the name means, its files, and reading them by ranges. Needs huggingface_hub."""
