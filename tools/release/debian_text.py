"""What is written in a Debian package: its control file, changelog, copyright and commands."""

from __future__ import annotations

import email
import os
from datetime import datetime, timezone
from email.utils import format_datetime
from pathlib import Path

from common import epoch
from licences import licence_of

_NAME = os.environ.get("DEBFULLNAME", "Hobbit Edge developers")
_EMAIL = os.environ.get("DEBEMAIL", "hobbit-edge@example.org")
MAINTAINER = f"{_NAME} <{_EMAIL}>"
ABOUT = {
    "hobbit-edge": """Description: Mixture-of-Experts language models bigger than memory
 Hobbit Edge keeps the dense part of a Mixture-of-Experts language model in
 memory and streams its experts from an NVMe drive, under a memory ceiling that
 holds. It has a command line, a Python interface and an HTTP service.
 .
 The libraries it uses come with it, below /opt/hobbit-edge. The service,
 hobbit.service, runs as a user of its own and serves this machine only.
""",
    "hobbit-edge-export": """Description: Hobbit Edge, exporter of checkpoints
 Turns checkpoints of Mixture-of-Experts language models (safetensors or GGUF)
 into the bundles that Hobbit Edge runs. It is meant for workstations.
""",
}


def control(name: str, version: str, arch: str, python: str, kib: int) -> str:
    """Return the control file of a package."""
    major, minor = python.split(".")
    depends = [
        f"python{python}", f"python3 (>= {python}~)", f"python3 (<< {major}.{int(minor) + 1})",
        "libc6 (>= 2.35)", "libgcc-s1", "libstdc++6 (>= 12)",
    ]  # fmt: skip
    if name == "hobbit-edge":
        depends += ["systemd (>= 245)", "init-system-helpers (>= 1.54)"]
    else:
        depends.append(f"hobbit-edge (= {version})")
    return (
        f"Package: {name}\nVersion: {version}\nArchitecture: {arch}\nMaintainer: {MAINTAINER}\n"
        f"Installed-Size: {kib}\nDepends: {', '.join(depends)}\nSection: science\nPriority: optional\n{ABOUT[name]}"
    )


def changelog(name: str, version: str, suite: str) -> str:
    """Return the package's changelog: which release of ours it is of."""
    date = format_datetime(datetime.fromtimestamp(epoch(), timezone.utc))
    return (
        f"{name} ({version}) {suite}; urgency=medium\n\n  * Release {version.partition('-')[0]}; what changed is in "
        f"CHANGELOG.md.\n\n -- {MAINTAINER}  {date}\n"
    )


def library(folder: Path) -> tuple[str, str, str]:
    """Return name, version and licence of an unpacked library."""
    metadata = email.message_from_string((folder / "METADATA").read_text(encoding="utf-8"))
    return str(metadata["Name"]), str(metadata["Version"]), licence_of(metadata)


def copyright_text(folders: list[Path]) -> str:
    """Return the copyright file: ours, and that of each library that comes along."""
    found = [library(folder) for folder in folders]
    parts = [
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: hobbit-edge\n",
        "Files: *\nCopyright: 2026 the Hobbit Edge developers\nLicense: Apache-2.0\n",
        "License: Apache-2.0\n On Debian systems the full text of the Apache License 2.0 is in\n"
        " /usr/share/common-licenses/Apache-2.0.\n",
    ]
    if found:
        listing = "".join(f" {name} {version}: {licence}\n" for name, version, licence in sorted(found))
        parts.append(
            "Comment:\n Libraries below /opt/hobbit-edge, unchanged, each with its licence files in its\n"
            f" .dist-info folder:\n{listing}"
        )
    return "\n".join(parts)


def launcher(python: str, module: str) -> str:
    """Return the command that runs a module's main function with a Python."""
    return f"#!{python}\nimport sys\n\nfrom {module} import main\n\nsys.exit(main())\n"
