"""A tokenizer out of the keys of a GGUF file: vocabulary, merges, pre-tokenizer by name, special tokens, templates."""
