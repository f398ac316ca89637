"""manifest.json as a file: parsed and checked when read, written whole or not at all. Touches no other file."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge_runtime.base.errors import BundleError, ConfigError
from edge_runtime.base.spec import check_spec
from edge_runtime.base.strict import from_mapping
from edge_runtime.bundle.files import read_regular
from edge_runtime.bundle.manifest import FORMAT, NAME, VERSIONS, Manifest, version_for
from edge_runtime.bundle.manifest_check import check

MAX_MANIFEST_BYTES = 2 << 20
"""Several times what 128 layers of six parts take; parsing costs some fifty times the bytes."""
_MAX_DEPTH = 32
_WRITER = re.compile(r"hobbit-export (\d{1,4}\.\d{1,4}\.\d{1,4}[0-9a-z.+]{0,20})")
_MARKS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


def digest(data: dict[str, Any]) -> str:
    """Digest of a manifest's plain data, leaving `bundle_id` out."""
    rest = {k: v for k, v in data.items() if k != "bundle_id"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def dump(manifest: Manifest) -> bytes:
    """Return manifest.json's bytes, with `bundle_id` filled in."""
    data = asdict(manifest) | {"version": version_for(manifest.model), "model": manifest.model.to_json()}
    for part in data["parts"]:
        if not part["cuts"]:
            del part["cuts"]
    data["bundle_id"] = digest(data)
    return (json.dumps(data, indent=1) + "\n").encode()


def write(bundle: Path, manifest: Manifest) -> None:
    """Write manifest.json atomically: whole and on the drive, or not at all."""
    temporary = bundle / (NAME + ".tmp")
    with open(temporary, "wb") as file:
        file.write(dump(manifest))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, bundle / NAME)
    directory = os.open(bundle, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def parse(raw: bytes) -> Manifest:
    """Parse and check untrusted manifest bytes.

    Raises:
        BundleError: not JSON, wrong format or version, damaged, or any field that cannot be true.
    """
    if len(raw) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{NAME}: expected at most {MAX_MANIFEST_BYTES} bytes, got {len(raw)}.")
    if _depth(raw) > _MAX_DEPTH:
        raise BundleError(f"{NAME}: expected plain data, got deep nesting. Export the bundle again.")
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as err:
        raise BundleError(f"{NAME}: expected JSON, got damage: {str(err)[:120]}. Export the bundle again.") from err
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise BundleError(f"{NAME}: format: expected {FORMAT!r}. This is not a bundle of hobbit-export.")
    version = data.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version not in VERSIONS:
        raise BundleError(
            f"{NAME}: version: expected 1 to {VERSIONS[-1]}, got {str(version)[:40]!r}. {_upgrade(data)}, "
            "or export the model again: hobbit-export CHECKPOINT --out BUNDLE"
        )
    if data.get("bundle_id") != digest(data):
        raise BundleError(f"{NAME}: bundle_id does not match the content (damaged or edited). Export the bundle again.")
    try:
        if version == 1:
            from edge_runtime.base.spec.version1 import model_from_version1

            data = data | {"model": model_from_version1(data.get("model"), f"{NAME}: model").to_json()}
        manifest = from_mapping(Manifest, data, NAME)
        check_spec(manifest.model, f"{NAME}: model")
        _check_version(manifest)
        manifest.sampling.check(f"{NAME}: sampling")
        check(manifest)
    except (ValueError, OverflowError) as err:
        raise BundleError(f"{err}. Export the bundle again.") from err
    return manifest


def _upgrade(data: dict[str, Any]) -> str:
    """Say which version of the runtime reads a manifest of a version that this one does not know."""
    writer = _WRITER.fullmatch(str(data.get("created_by"))[:80])
    return f"Upgrade hobbit-edge to {writer[1]} or later, which wrote it" if writer else "Run the version that wrote it"


def _check_version(manifest: Manifest) -> None:
    """Refuse a model that bundles of the manifest's version do not hold.

    Raises:
        ValueError: names what the version is too old, or too new, for.
    """
    wanted = version_for(manifest.model)
    if manifest.version != wanted and (manifest.version, wanted) != (1, 2):
        codes = manifest.model.experts.codes
        raise ValueError(f"{NAME}: version: expected {wanted} of experts.codes {codes!r}, got {manifest.version}")


_drafts: dict[Path, Manifest] = {}


@contextmanager
def draft(bundle: Path, manifest: Manifest) -> Iterator[None]:
    """Let this process, and no other, open a bundle whose manifest is not written yet.

    For an export that must run what it has written so far: dying meanwhile leaves no manifest.json behind.
    """
    key = bundle.resolve()
    _drafts[key] = parse(dump(manifest))
    try:
        yield
    finally:
        del _drafts[key]


def read(bundle: Path) -> Manifest:
    """Read a bundle's manifest, saying clearly what is wrong if there is none."""
    if _drafts and (unwritten := _drafts.get(bundle.resolve())):
        return unwritten
    found = _mode(bundle, os.stat)
    if found is None or not stat.S_ISDIR(found):
        hint = f" Make one: hobbit-export {bundle} --out BUNDLE" if bundle.suffix == ".gguf" else ""
        kind = "nothing" if found is None else "a file"
        raise ConfigError(f"{bundle}: expected a bundle directory, found {kind}.{hint}")
    if _mode(bundle / NAME, os.lstat) is None:
        if (bundle / "export.journal").exists():
            raise BundleError(f"{bundle}: the export is unfinished. Run hobbit-export again to resume it.")
        if (bundle / "config.json").exists():
            raise BundleError(f"{bundle}: a checkpoint, not a bundle. Make one: hobbit-export {bundle} --out BUNDLE")
        raise BundleError(f"{bundle}: {NAME} is missing, so this is not a bundle. Write one with hobbit-export.")
    return parse(read_regular(bundle, NAME, limit=MAX_MANIFEST_BYTES))


def _mode(path: Path, look: Callable[[Path], os.stat_result]) -> int | None:
    """Return the mode of what is at a path, None if nothing is.

    Raises:
        ConfigError: this user may not look, so nobody can say whether something is there.
    """
    try:
        return look(path).st_mode
    except PermissionError as err:
        raise ConfigError(
            f"{path}: permission denied: user id {os.geteuid()} may not look there. Let it into every folder of the "
            "path (chmod o+x), or put the bundle elsewhere. A unit with ProtectHome= denies /home and /root to all."
        ) from err
    except OSError:
        return None


def _depth(raw: bytes) -> int:
    """Deepest nesting of JSON text, found without parsing it: the parser recurses."""
    depth = deepest = 0
    for mark in _MARKS.findall(raw):
        if mark in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif mark in b"]}":
            depth -= 1
    return deepest
