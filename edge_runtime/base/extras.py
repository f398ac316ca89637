"""How to install what is missing, as a command that works wherever this package came from."""

from __future__ import annotations

import re
import shlex
import sys
from importlib.util import find_spec

_EXTRA = re.compile(r"""\bextra\s*==\s*['"]([\w-]+)['"]""")


def install_extra(extra: str) -> str:
    """Return `Install it: ...` for what one of our extras names.

    The libraries are named one by one: `pip install hobbit-edge[extra]` would look for a project of that name, and
    finds none where this package came from a checkout or a wheel.
    """
    return pip_install(*_requirements(extra))


def pip_install(*requirements: str) -> str:
    """Return `Install it: ...` for some requirements, into the environment that runs this.

    An environment of an offline bundle has no pip of its own: that of another Python can be told to install there.
    """
    has_pip = find_spec("pip") is not None
    pip = [sys.executable, "-m", "pip"] if has_pip else ["python3", "-m", "pip", "--python", sys.executable]
    return f"Install it: {shlex.join([*pip, 'install', *requirements])}"


def _requirements(extra: str) -> list[str]:
    from importlib.metadata import PackageNotFoundError, requires

    try:
        declared = requires("hobbit-edge") or []
    except PackageNotFoundError:
        declared = []
    found = []
    for line in declared:
        requirement, _, marker = line.partition(";")
        named = _EXTRA.search(marker)
        if named is not None and named[1] == extra:
            found.append(requirement.strip().replace(" ", ""))
    return found or [f"hobbit-edge[{extra}]"]
