"""Say whether wheels, bundles and packages are of what this checkout has, before somebody tests them.

usage: python tools/release/fresh.py FILE...

Everything a release consists of carries the time of the commit that it was made of. A file is stale where a later
commit touched what goes into it, the operator's pages and the CHANGELOG among it; tests, benchmarks and other pages do
not. ANY_BUILD=1 lets a stale one pass, and says so.
`make release-check` is stricter: there everything has to be of the last commit.
"""

from __future__ import annotations

import os
import sys
import tarfile
from datetime import datetime, timezone
from pathlib import Path

from common import ROOT, Failed, exit_code, run, say
from contained import control_files, time_of_wheel
from offline import CARRIED, pages

LEFT_OUT = ("tests", "benchmarks", "docs", ".ci", ".github", "*.md")


def changed() -> int:
    """Return the time of the last commit that touched what is packaged."""
    left_out = (f":(exclude){name}" for name in LEFT_OUT)
    return max(last_commit(".", *left_out), last_commit(*CARRIED, *pages()))


def last_commit(*paths: str) -> int:
    """Return the time of the last commit that touched one of these, 0 if none did."""
    return int(run("git", "-C", str(ROOT), "log", "-1", "--format=%ct", "--", *paths) or 0)


def written(path: Path) -> int:
    """Return the time that a wheel, a bundle or a package carries."""
    if path.suffix == ".whl":
        return time_of_wheel(path) + 1  # its times are even seconds
    if path.suffix == ".deb":
        with tarfile.open(fileobj=control_files(path)) as archive:
            return int(archive.getmember("./md5sums").mtime)
    with tarfile.open(path) as archive:
        first = archive.next()
        return int(first.mtime) if first else 0


def check(path: Path) -> None:
    """Refuse a file that was made before the last change.

    Raises:
        Failed: it is not there, or it was and ANY_BUILD is not set.
    """
    if not path.exists():
        raise Failed(f"{path} is not there. Run: make wheels offline deb")
    if written(path) >= changed():
        return
    made = datetime.fromtimestamp(written(path), timezone.utc).isoformat()
    said = f"{path.name}: made of a commit of {made}; what goes into it has changed since"
    if not os.environ.get("ANY_BUILD"):
        raise Failed(f"{said}. Make it again (make wheels offline deb), or take it as it is: ANY_BUILD=1")
    say(f"{said}. Taken all the same (ANY_BUILD)")


if __name__ == "__main__":
    sys.exit(exit_code(lambda: [check(Path(name)) for name in sys.argv[1:]]))
