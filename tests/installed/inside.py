"""Run by the Python of an installed copy, outside the repository, with no network but loopback: is all of it there?

usage: python inside.py BUNDLE EXPECTED.json [CHECKPOINT]

Prints one line a check. BUNDLE is a small bundle, EXPECTED what expected.py says of the machine that made it. Needs
kernels.py beside it. With a CHECKPOINT the exporter is tried on it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

MOST_BYTES = 250e6
BIN = Path(sys.executable).parent
EXTRAS = {"onnx", "gguf", "lm_eval", "huggingface_hub", "ray"}
"""Libraries that only an extra installs; no module of the runtime itself may need one."""
MAY_NEED_EXTRAS = ("hobbit_export", "edge_runtime.lab.harness")
PORT = 8089


def say(text: str) -> None:
    print(f"  {text}", flush=True)


def is_imported(module: str) -> bool:
    """Import a module; False where what it lacks is an extra, and that is really not there."""
    try:
        importlib.import_module(module)
    except ImportError as err:
        missing = (err.name or "").partition(".")[0]
        lacks_it = missing in EXTRAS and importlib.util.find_spec(missing) is None
        if lacks_it and module.startswith(MAY_NEED_EXTRAS):
            return False
        raise
    return True


def modules_of(top: str) -> list[str]:
    """Every module of a package, from its files: nothing is imported to find them."""
    package = importlib.import_module(top)
    folder = Path(package.__file__).parent
    assert folder.is_relative_to(sys.prefix), folder
    parts = (path.relative_to(folder.parent).with_suffix("").parts for path in sorted(folder.rglob("*.py")))
    return [".".join(words).removesuffix(".__init__") for words in parts if words[-1] != "__main__"]


def import_everything() -> None:
    """Import every module there is."""
    names = [*modules_of("edge_runtime"), *modules_of("hobbit_export")]
    left_out = [name for name in names if not is_imported(name)]
    assert len(names) - len(left_out) > 300, (len(names), left_out)
    assert "torch" not in sys.modules
    assert (shutil.which("cc"), shutil.which("c++"), shutil.which("g++")) == (None, None, None)
    say(
        f"{len(names) - len(left_out)} modules import, {len(left_out)} of the exporter need its extra; no compiler on PATH"
    )


def run(*words: str) -> str:
    """Run a command of ours to its end."""
    done = subprocess.run([str(BIN / words[0]), *words[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stdout[-500:], done.stderr[-3000:])
    return done.stdout


def commands_answer() -> None:
    """Ask every command for help and version."""
    expected = importlib.metadata.version("hobbit-edge")
    for command in ("hobbit", "hobbit-edge", "hobbit-export"):
        assert run(command, "--version").split()[-1] == expected
        assert "usage" in run(command, "--help")
    say("commands answer with help and version")


def kernels_are(isa: str, expected: dict[str, str]) -> None:
    """See which instruction set the kernels choose, and that each there is gives what the machine that asks got."""
    import kernels
    import numpy as np

    from edge_runtime.backends.cpu.kernels import available_isas
    from edge_runtime.base.checksum import crc32c

    assert available_isas()[0] == isa, (available_isas(), isa)
    assert crc32c(b"123456789") == crc32c(np.frombuffer(b"123456789", np.uint8)) == 0xE3069283
    for each in available_isas():
        found = kernels.digests(each)
        differ = [case for case in expected.keys() | found.keys() if found.get(case) != expected.get(case)]
        assert differ == [], (each, sorted(differ))
        say(f"kernels: {each}: {len(found)} results are, bit for bit, those of the machine that asked")


def tokens_are_the_same(bundle: str, flags: list[str], expected: dict[str, list[int]]) -> str:
    """Decode greedily under each policy and compare token ids; return the text of the first."""
    texts = []
    for policy, tokens in expected.items():
        found = json.loads(run("hobbit", "run", bundle, *flags, "--policy", policy, "--json"))
        assert found["token_ids"] == tokens, (policy, found["token_ids"], tokens)
        assert found["experts"]["misses"] + found["experts"]["late"] > 0, found["experts"]
        read = found["experts"]["bytes_read"]
        say(f"{policy}: {len(tokens)} tokens are those of the machine that exported; {read} bytes read")
        texts.append(found["text"])
    return texts[0]


def reads_are_made_with(expected: str) -> None:
    """See what reads are made with; emulation has no io_uring, so threads must take over."""
    from edge_runtime.experts.drive import DriveReader

    reader = DriveReader(2, False, True)
    said = reader.method
    reader.close(5.0)
    assert said.startswith(expected), (said, expected)
    say(f"reads are made with {said}")


@contextlib.contextmanager
def serving(bundle: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the service during a block."""
    command = [str(BIN / "hobbit"), "serve", bundle, "--port", str(PORT), "--memory", "500MiB", "--context", "128"]
    with tempfile.TemporaryFile() as log:
        service = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield service
        except BaseException:
            log.seek(0)
            print(log.read().decode()[-3000:])
            raise
        finally:
            service.send_signal(signal.SIGTERM)
            service.wait(60)


def serve_answers(bundle: str, text: str) -> None:
    """Start the service and ask it for what `run` said."""
    url = f"http://127.0.0.1:{PORT}"
    with serving(bundle) as service:
        deadline = time.monotonic() + 240
        while True:
            assert service.poll() is None
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{url}/health/ready", timeout=5).close()
                break
            assert time.monotonic() < deadline, "not ready"
            time.sleep(0.5)
        body = {"prompt": "import os", "max_tokens": 16, "temperature": 0, "model": Path(bundle).name}
        request = urllib.request.Request(
            f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        answer = json.load(urllib.request.urlopen(request, timeout=240))
    assert answer["choices"][0]["text"] == text, (answer["choices"][0]["text"], text)
    say("serve answers one request, with the text of run")


def export_writes(source: str, out: Path, expected: dict[str, str]) -> None:
    """Export a checkpoint; the experts are, byte for byte, those of the machine that asks."""
    run("hobbit-export", source, "--out", str(out), "--tiers", "4,2", "--trunk", "fp32")
    parts = {part["name"]: part["sha256"] for part in json.loads((out / "manifest.json").read_text())["parts"]}
    assert expected.items() <= parts.items(), sorted(expected.items() - parts.items())
    say(f"hobbit-export writes a bundle; its {len(expected)} files of experts are those of the machine that asks")


def footprint() -> None:
    """List what the installation takes, the largest first."""
    sizes = {}
    for found in importlib.metadata.distributions():
        files = {Path(found.locate_file(file)) for file in found.files or ()}
        files |= {Path(importlib.util.cache_from_source(path)) for path in files if path.suffix == ".py"}
        sizes[found.metadata["Name"]] = sum(path.stat().st_size for path in files if path.exists())
    total = sum(path.stat().st_size for path in Path(sys.prefix).rglob("*") if path.is_file() and not path.is_symlink())
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        if size > 1e6:
            say(f"{name:<24}{size / 1e6:8.1f} MB")
    say(f"{'all of it':<24}{total / 1e6:8.1f} MB")
    # the exporter's libraries are a workstation's
    assert total < MOST_BYTES or importlib.util.find_spec("onnx"), total


def main() -> None:
    """Run every check."""
    bundle, expected = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp()
    footprint()
    commands_answer()
    import_everything()
    kernels_are(expected["isa"], expected["kernels"])
    text = tokens_are_the_same(bundle, expected["flags"], expected["token_ids"])
    reads_are_made_with(expected["reads_with"])
    serve_answers(bundle, text)
    if len(sys.argv) > 3:
        export_writes(sys.argv[3], Path(os.environ["XDG_STATE_HOME"]) / "exported", expected["experts"])


if __name__ == "__main__":
    main()
