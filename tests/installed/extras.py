"""Run by the Python of an environment with the wheel and one of its extras: does it do what the extra is for, and no more?

usage: python extras.py EXTRA MODEL EXPECTED.json WORK CHECKPOINT     EXTRA: none, serve, bench, export or all
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import inside

BRINGS = {
    "none": set(),
    "serve": {"uvicorn", "starlette", "msgspec", "llguidance"},
    "bench": {"matplotlib"},
    "export": {"onnx", "huggingface_hub"},
}
BRINGS["all"] = set().union(*BRINGS.values()) | {"gguf"}
OWN = set().union(*BRINGS.values()) - {"huggingface_hub"}
"""Libraries that nothing else brings along; huggingface_hub comes with tokenizers too."""
NEVER = ("torch", "transformers", "jtop", "ray", "lm_eval", "tensorrt")


def is_there(module: str) -> bool:
    """Whether a library is installed."""
    return find_spec(module) is not None


def says(code: int, *words: str) -> str:
    """Run a command of ours that must end with a code; return what it said."""
    done = subprocess.run([str(inside.BIN / words[0]), *words[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == code, (words, done.returncode, done.stdout[-500:], done.stderr[-2000:])
    return done.stdout + done.stderr


def serves(extra: str, model: str, text: str) -> None:
    """Serve a request, or be told what is missing."""
    if is_there("uvicorn"):
        inside.serve_answers(model, text)
    else:
        said = says(78, "hobbit", "serve", model)
        assert "a library is missing" in said, said
        assert "uvicorn" in said, said
        inside.say(f"{extra}: serve names what it lacks")


def benches(extra: str, model: str, work: Path) -> None:
    """Write a report, with plots where matplotlib is."""
    flags = ["--prompt-tokens", "16", "--gen-tokens", "8", "--repeat", "3", "--memory", "400MiB", "--context", "128"]
    said = says(0, "hobbit", "bench", model, *flags, "--out", str(work / "report"))
    assert (work / "report/report.html").stat().st_size > 1000
    assert (work / "report/report.png").exists() is is_there("matplotlib")
    assert ("they need matplotlib" in said) is not is_there("matplotlib"), said
    inside.say(f"{extra}: bench writes its report{' and its plots' if is_there('matplotlib') else ', without plots'}")


def exports(extra: str, work: Path, source: str, experts: dict[str, str]) -> None:
    """Export what the machine that asks exported, or be told what is missing."""
    if is_there("onnx"):
        inside.export_writes(source, work / "bundle", experts)
    else:
        said = says(1, "hobbit-export", source, "--out", str(work / "bundle"))
        assert "Install it:" in said, said
        assert "onnx" in said, said
        inside.say(f"{extra}: hobbit-export names what it lacks")


def main() -> None:
    """Run every check of one extra."""
    extra, model, work = sys.argv[1], sys.argv[2], Path(sys.argv[4])
    expected = json.loads(Path(sys.argv[3]).read_text())
    os.environ["XDG_STATE_HOME"] = str(work / "state")
    lacking = {name for name in BRINGS[extra] if not is_there(name)}
    unasked = {name for name in OWN - BRINGS[extra] if is_there(name)} | {name for name in NEVER if is_there(name)}
    assert (lacking, unasked) == (set(), set()), f"{extra}: lacks {lacking}, brings unasked {unasked}"
    inside.commands_answer()
    if extra == "all":
        inside.import_everything()
    text = inside.tokens_are_the_same(model, expected["flags"], expected["token_ids"])
    serves(extra, model, text)
    benches(extra, model, work)
    exports(extra, work, sys.argv[5], expected["experts"])


if __name__ == "__main__":
    main()
