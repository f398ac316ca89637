"""The workstation side: turns a Hugging Face MoE checkpoint into a bundle."""

from __future__ import annotations


def __getattr__(name: str) -> str:
    """Read `__version__` where it is asked for: pyproject.toml alone says it, and looking it up takes a while."""
    if name != "__version__":
        raise AttributeError(f"module 'hobbit_export' has no attribute {name!r}")
    from importlib.metadata import version

    return version("hobbit-edge")
