"""Write the checkpoint that the bundles here were exported from: a Mixtral of 40,000 random weights.

usage: python micro.py FOLDER     needs numpy alone; the same bytes each time

Router and output logits are spread widely, so that rounding changes neither experts nor greedy tokens.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

LAYERS, EXPERTS, HIDDEN, HEADS, VOCAB = 2, 4, 32, 2, 104
CONFIG = {
    "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "vocab_size": VOCAB, "hidden_size": HIDDEN,
    "intermediate_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": 1,
    "num_local_experts": EXPERTS, "num_experts_per_tok": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "bos_token_id": None, "eos_token_id": VOCAB - 1, "sliding_window": None, "hidden_act": "silu",
    "tie_word_embeddings": False, "torch_dtype": "float32",
}  # fmt: skip
LETTERS = ["Ċ", "Ġ", *map(chr, range(ord("!"), ord("~") + 1))]
"""The vocabulary: newline, space and what ASCII prints, as GPT-2's byte-level alphabet writes them."""


def weights() -> dict[str, np.ndarray]:
    """Every tensor, float32, by the names published checkpoints have."""
    rng = np.random.default_rng(9)

    def matrix(rows: int, columns: int, scale: float = 1.0) -> np.ndarray:
        return rng.normal(0.0, scale / columns**0.5, (rows, columns)).astype(np.float32)

    def norm() -> np.ndarray:
        return rng.normal(1.0, 0.15, HIDDEN).astype(np.float32)

    found = {"model.embed_tokens.weight": rng.normal(0.0, 0.6, (VOCAB, HIDDEN)).astype(np.float32)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        found |= {f"{prefix}{name}_layernorm.weight": norm() for name in ("input", "post_attention")}
        for name, rows in (("q", HIDDEN), ("k", HIDDEN // HEADS), ("v", HIDDEN // HEADS), ("o", HIDDEN)):
            found[f"{prefix}self_attn.{name}_proj.weight"] = matrix(rows, HIDDEN)
        found[f"{prefix}block_sparse_moe.gate.weight"] = matrix(EXPERTS, HIDDEN, 4.0)
        for expert in range(EXPERTS):
            for name in ("w1", "w2", "w3"):
                found[f"{prefix}block_sparse_moe.experts.{expert}.{name}.weight"] = matrix(32, HIDDEN)
    found["model.norm.weight"] = norm()
    found["lm_head.weight"] = matrix(VOCAB, HIDDEN, 4.0)
    found["lm_head.weight"][-1] = 0.0  # the end never has the largest logit
    return found


def tokenizer() -> dict[str, object]:
    """A byte-level tokenizer without merges, as tokenizer.json."""
    end = {
        "id": VOCAB - 1, "content": "<|end|>", "single_word": False, "lstrip": False, "rstrip": False,
        "normalized": False, "special": True,
    }  # fmt: skip
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
        "fuse_unk": False, "byte_fallback": False, "vocab": {letter: at for at, letter in enumerate(LETTERS)}, "merges": [],
    }  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [end], "normalizer": None,
        "pre_tokenizer": level, "post_processor": None, "decoder": level, "model": model,
    }  # fmt: skip


def write(folder: Path) -> None:
    """Write config, weights and tokenizer."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()) + "\n")
    found, header, at = weights(), {}, 0
    for name, tensor in found.items():
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [at, at + tensor.nbytes]}
        at += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in found.values():
            file.write(tensor.tobytes())


if __name__ == "__main__":
    write(Path(sys.argv[1]))
