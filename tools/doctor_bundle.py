"""Write the tiny model that `hobbit doctor` runs: `python tools/doctor_bundle.py`.

A qwen3_moe of two layers with weights drawn from nine values, which compress well. It was trained on nothing and says
nothing; its bundle holds the exporter's reference logits, against which every backend is compared.
"""

from __future__ import annotations

import json
import struct
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

import hobbit_export.cli

OUT = Path(__file__).parents[1] / "edge_runtime/lab/doctor/tiny_model.zip"
CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 288, "hidden_size": 64,
    "intermediate_size": 64, "moe_intermediate_size": 64, "head_dim": 16, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2,
    "max_position_embeddings": 128, "eos_token_id": 256, "norm_topk_prob": True, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False, "rope_theta": 10000.0,
}  # fmt: skip
_LAYERS, _EXPERTS = 2, 4
_WHEN = (2026, 1, 1, 0, 0, 0)
"""Of every file in the archive, so that the same model gives the same bytes."""


def shapes() -> dict[str, tuple[int, ...]]:
    """Return the checkpoint's tensors."""
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (288, 64), "model.norm.weight": (64,), "lm_head.weight": (288, 64)
    }  # fmt: skip
    for layer in range(_LAYERS):
        at = f"model.layers.{layer}"
        found |= {f"{at}.{name}_layernorm.weight": (64,) for name in ("input", "post_attention")}
        found |= {f"{at}.self_attn.{name}_proj.weight": (64 if name == "q" else 32, 64) for name in ("q", "k", "v")}
        found |= {f"{at}.self_attn.o_proj.weight": (64, 64), f"{at}.mlp.gate.weight": (4, 64)}
        found |= {f"{at}.self_attn.{name}_norm.weight": (16,) for name in ("q", "k")}
        for expert in range(_EXPERTS):
            found |= {f"{at}.mlp.experts.{expert}.{name}_proj.weight": (64, 64) for name in ("gate", "up", "down")}
    return found


def write_checkpoint(folder: Path) -> None:
    """Write config, weights and tokenizer."""
    rng = np.random.default_rng(7)
    tensors = {name: _weights(rng, shape) for name, shape in shapes().items()}
    for name in tensors:
        if "mlp.gate" in name:
            tensors[name] *= 4  # routes that no rounding changes
    header, at = {}, 0
    for name, array in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    data = struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for array in tensors.values())
    (folder / "model.safetensors").write_bytes(data)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    write_tokenizer(folder)


def _weights(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    levels = rng.integers(-4, 5, shape).astype(np.float32) / 4
    return levels * np.float32(2 / np.sqrt(shape[1]))


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer without merges: a token is a byte, and 256 ends."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) if byte in printable else chr(256 + other.index(byte)) for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(vocab={letter: byte for byte, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True, normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))


def main() -> int:
    """Export the model and pack the bundle."""
    with tempfile.TemporaryDirectory() as name:
        checkpoint, bundle = Path(name) / "doctor-tiny", Path(name) / "bundle"
        checkpoint.mkdir()
        write_checkpoint(checkpoint)
        code = hobbit_export.cli.main([str(checkpoint), "--out", str(bundle), "--tiers", "8,4,2", "--trunk", "fp32"])
        if code:
            return int(code)
        with zipfile.ZipFile(OUT, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for path in sorted(p for p in bundle.rglob("*") if p.is_file()):
                entry = zipfile.ZipInfo(path.relative_to(bundle).as_posix(), _WHEN)
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, path.read_bytes(), compresslevel=9)
    return 0


if __name__ == "__main__":
    sys.exit(main())
