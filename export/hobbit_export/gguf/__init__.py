"""GGUF files as the source of an export: their header, weights, configuration and tokenizer. See docs/sources.md."""
