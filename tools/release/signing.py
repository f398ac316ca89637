"""SHA256SUMS of a release and its signature: written by whoever publishes, verified by anybody."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from common import ROOT, Failed, digest, run, say

SIGNED_AS = "hobbit-edge-release"
SIGNER = "hobbit-edge"
SIGNERS = ROOT / "deploy/signers"
"""Who may sign: lines of SIGNER and a public key, as ssh-keygen reads them."""
KEPT_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
"""Names that GitHub leaves as they are: it puts a `.` for other characters, and drops one at either end."""


def write_sums(out: Path, key: str | None) -> None:
    """Write SHA256SUMS of everything in the folder, and its signature.

    Raises:
        Failed: GitHub gives a file another name, by which SHA256SUMS would not find it; what was written before stays.
    """
    written = ("SHA256SUMS", "SHA256SUMS.sig")
    files = sorted(path for path in out.iterdir() if path.is_file() and path.name not in written)
    if renamed := [path.name for path in files if not KEPT_NAME.fullmatch(path.name)]:
        raise Failed(
            f"{', '.join(renamed)}: expected letters, digits, '._-', neither '.' nor '-' at an end, or GitHub gives "
            "another name. Rename or remove it."
        )
    for old in written:
        (out / old).unlink(missing_ok=True)
    sums = out / "SHA256SUMS"
    sums.write_text("".join(f"{digest(path)}  {path.name}\n" for path in files), encoding="utf-8")
    if key is None:
        say(f"SHA256SUMS: {len(files)} files, NOT signed (no --key)")
        return
    run("ssh-keygen", "-Y", "sign", "-q", "-f", key, "-n", SIGNED_AS, sums)
    say(f"SHA256SUMS: {len(files)} files, signed")


def check_signature(out: Path) -> None:
    """See that SHA256SUMS is signed by one of deploy/signers.

    Raises:
        Failed: it is not, or nobody may sign.
    """
    if not SIGNERS.exists():
        raise Failed(f"{SIGNERS}: expected the public key of who signs. See docs/releasing.md")
    signature = out / "SHA256SUMS.sig"
    if not signature.exists():
        raise Failed(f"{signature.name}: not there. A tag needs --key or HOBBIT_SIGNING_KEY")
    command = ["ssh-keygen", "-Y", "verify", "-f", SIGNERS, "-I", SIGNER, "-n", SIGNED_AS, "-s", signature]
    with (out / "SHA256SUMS").open("rb") as sums:
        done = subprocess.run(command, stdin=sums, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{signature.name}: not by a key of {SIGNERS.name}: {(done.stdout + done.stderr).strip()}")
