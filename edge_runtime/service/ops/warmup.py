"""What comes before READY: every byte of the bundle checked once, and a token through every layer."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from time import monotonic

from edge_runtime.base.sizes import format_size
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.state import is_remembered, remember, state_folder
from edge_runtime.bundle.verification import check_bundle
from edge_runtime.engine.api import Engine
from edge_runtime.engine.sampler import SamplingParams

_LOG = logging.getLogger(__name__)
_SAY_EVERY_S = 2.0
_WARM_TOKENS = 2
_MAX_TOUCH_S = 2.0
"""Waited at most for memory before READY: some GiB. A larger one goes on being taken, ahead of its first use."""


def verify_once(bundle: Bundle, say: Callable[[str], None]) -> bool:
    """Check every hash of a bundle, unless the very same files passed before on this machine.

    A file counts as the same while its size, inode and time of change stay; a restart of the service is then quick.
    Reads are checked again one by one when they happen, so this is for finding out early.

    Args:
        bundle: an opened bundle.
        say: told what goes on every few seconds, for `systemctl status`.

    Returns:
        Whether it was read now.

    Raises:
        BundleError: names the damaged part.
    """
    marker = state_folder() / "verified" / f"{bundle.manifest.bundle_id[:32]}-{_files_fingerprint(bundle)}"
    if is_remembered(marker):
        _LOG.info("bundle verified before, and unchanged since")
        return False
    total = sum(os.stat(bundle.file_of(part)).st_size for part in bundle.manifest.parts)
    done, said, started = 0, float("-inf"), monotonic()

    def progress(_: str, count: int) -> None:
        nonlocal done, said
        done += count
        if monotonic() - said >= _SAY_EVERY_S:
            said = monotonic()
            say(f"verifying the bundle: {format_size(done)} of {format_size(total)}")

    check_bundle(bundle, progress)
    _LOG.info("bundle verified: %s in %.1f s", format_size(total), monotonic() - started)
    try:
        remember(marker)
    except OSError as err:
        _LOG.info("verified: cannot be remembered in %s: %s", marker.parent, err.strerror)
    return True


def warm(engine: Engine) -> float:
    """Run a token through prefill and another through decode, so that the first client pays for neither.

    Nor for taking the experts' memory from the system: what is not there after `_MAX_TOUCH_S` goes on being taken.

    What that leaves in the engine is forgotten: a policy that is switched to at a reload begins as one at a start.

    Returns:
        Seconds it took.

    Raises:
        ExpertReadError: the drive failed.
    """
    started = monotonic()
    engine.generate([0], SamplingParams(max_tokens=_WARM_TOKENS, ignore_eos=True))
    engine.start_over()
    engine.parts.cache.touch(whole=True, wait_s=_MAX_TOUCH_S)
    elapsed = monotonic() - started
    _LOG.info("warm after %.2f s", elapsed)
    return elapsed


def _files_fingerprint(bundle: Bundle) -> str:
    digest = hashlib.sha256()
    for part in bundle.manifest.parts:
        status = os.stat(bundle.file_of(part))
        digest.update(
            f"{part.name} {status.st_size} {status.st_ino} {status.st_mtime_ns} {status.st_ctime_ns}\n".encode()
        )
    return digest.hexdigest()[:32]
