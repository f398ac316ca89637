"""The workstation side: turns a Hugging Face MoE checkpoint into a bundle."""

__version__ = "0.1.0"
