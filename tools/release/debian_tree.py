"""What lies where in the Debian packages: libraries, commands, pages and completions, and the service."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

from common import ROOT, epoch
from debian_text import launcher

HOME = "opt/hobbit-edge"
SHARE = {  # from the environment's share/ to where Debian looks
    "man/man1": "usr/share/man/man1",
    "bash-completion/completions": "usr/share/bash-completion/completions",
    "fish/vendor_completions.d": "usr/share/fish/vendor_completions.d",
    "zsh/site-functions": "usr/share/zsh/vendor-completions",
}
EXPORTER = ("hobbit-export",)
"""Words by which a file of the wheel is the exporter's: its command, page and completions."""


def split(both: Path, runtime: Path, root: Path, export: Path, site: str) -> None:
    """Divide what was unpacked: what the runtime has not goes to the exporter's package, with the exporter itself."""
    shutil.copytree(runtime, root / site, ignore=shutil.ignore_patterns("bin", "share"))
    for path in sorted(both.iterdir()):
        if path.name not in ("bin", "share") and not (root / site / path.name).exists():
            move(path, export / site / path.name)
    move(root / site / "hobbit_export", export / site / "hobbit_export")


def move(source: Path, target: Path) -> None:
    """Move a file or folder, making the folders above."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)


def add_share(share: Path, root: Path, export: Path) -> None:
    """Put manual pages and completions where they are looked for, each into the package of its command."""
    for source, target in SHARE.items():
        for path in sorted((share / source).iterdir()):
            package = export if path.name.startswith(EXPORTER) else root
            content = path.read_bytes()
            if "man" in source:
                write(package / target / f"{path.name}.gz", gzip.compress(content, 9, mtime=epoch()))
            else:
                write(package / target / path.name, content)
    (root / "usr/share/man/man1/hobbit-edge.1.gz").symlink_to("hobbit.1.gz")


def write(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Write a file with its mode, making the folders above."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)


def add_environment(python: str, root: Path, export: Path) -> None:
    """Make the folder a virtual environment of the system's Python, with our commands in it and in /usr/bin."""
    home = root / HOME
    write(
        home / "pyvenv.cfg",
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {python}\n"
        f"executable = /usr/bin/python{python}\ncommand = /usr/bin/python{python} -m venv /{HOME}\n",
    )
    (home / "bin").mkdir()
    (home / "bin/python").symlink_to(f"/usr/bin/python{python}")
    (home / "bin/python3").symlink_to("python")
    for name, module in (("hobbit", "edge_runtime.__main__"), ("hobbit-edge", "edge_runtime.__main__")):
        add_command(root, name, module)
    add_command(export, "hobbit-export", "hobbit_export.cli")


def add_command(root: Path, name: str, module: str) -> None:
    """Write a command of the environment and its link in /usr/bin."""
    write(root / HOME / "bin" / name, launcher(f"/{HOME}/bin/python", module), 0o755)
    (root / "usr/bin").mkdir(parents=True, exist_ok=True)
    (root / "usr/bin" / name).symlink_to(f"/{HOME}/bin/{name}")


def add_service(root: Path) -> None:
    """Add units, user, folders, settings and examples."""
    for name in ("hobbit.service", "hobbit.socket"):
        text = (ROOT / "systemd" / name).read_text(encoding="utf-8").replace("/usr/local/share/doc", "/usr/share/doc")
        write(root / "usr/lib/systemd/system" / name, text)
    write(root / "usr/lib/sysusers.d/hobbit-edge.conf", (ROOT / "systemd/sysusers.conf").read_text(encoding="utf-8"))
    write(root / "usr/lib/tmpfiles.d/hobbit-edge.conf", (ROOT / "systemd/tmpfiles.conf").read_text(encoding="utf-8"))
    write(root / "etc/hobbit-edge/hobbit.env", (ROOT / "deploy/hobbit.env.example").read_text(encoding="utf-8"))
    examples = root / "usr/share/doc/hobbit-edge/examples"
    for path in sorted((ROOT / "systemd/examples").iterdir()):
        write(examples / "systemd" / path.name, path.read_bytes())
    write(examples / "grafana/hobbit.json", (ROOT / "deploy/grafana/hobbit.json").read_bytes())
    write(root / "usr/share/doc/hobbit-edge/operations.md", (ROOT / "docs/operations.md").read_bytes())
    (root / "usr/share/hobbit-edge").mkdir(parents=True)
    shutil.copytree(
        ROOT / "profiles", root / "usr/share/hobbit-edge/profiles", ignore=shutil.ignore_patterns("*.py", "__*")
    )
