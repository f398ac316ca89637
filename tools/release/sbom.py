"""Write the bill of materials of what a release installs, in CycloneDX 1.6: ours and every locked library.

usage: python tools/release/sbom.py [--set device|all] [--python 3.12] [--out dist]

A bill is of one Python: boards with another get other versions. Everything in it is in deploy/locks: versions, digests
of the wheels, licences as their metadata says. pip, which installs an offline bundle, is in it as excluded. Two runs
write the same bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
import uuid
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from common import PYTHONS, ROOT, Failed, epoch, exit_code, say, version
from locks import LOCKS, SETS, Locked, read

NAMESPACE = uuid.UUID("6f0c4b5e-55c5-5b1c-9d54-6d0f0f2f9a10")


def component(library: Locked) -> dict[str, Any]:
    """Describe one library."""
    ref = f"pkg:pypi/{library.name}@{library.version}"
    return {
        "type": "library",
        "bom-ref": ref,
        "name": library.name,
        "version": library.version,
        "purl": ref,
        "hashes": [{"alg": "SHA-256", "content": digest} for digest in library.digests],
        "licenses": [{"license": {"name": library.licence}}],
    }


def bill(libraries: list[Locked], tools: Sequence[Locked] = ()) -> dict[str, Any]:
    """Return the document.

    Args:
        libraries: what is installed.
        tools: what comes along to install it, and is not installed.
    """
    components = [component(library) for library in libraries]
    components += [{**component(tool), "scope": "excluded"} for tool in tools]
    ref = f"pkg:pypi/hobbit-edge@{version()}"
    subject = {
        "type": "application",
        "bom-ref": ref,
        "name": "hobbit-edge",
        "version": version(),
        "purl": ref,
        "licenses": [{"license": {"id": "Apache-2.0"}}],
    }
    refs = [each["bom-ref"] for each in components]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, json.dumps([version(), components], sort_keys=True))}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch(), timezone.utc).isoformat().replace("+00:00", "Z"),
            "component": subject,
        },
        "components": components,
        "dependencies": [{"ref": ref, "dependsOn": refs}, *({"ref": each} for each in refs)],
    }


def validate(text: str) -> None:
    """Hold a document to CycloneDX's own schema.

    Raises:
        Failed: it does not fit.
    """
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if problem is not None:
        raise Failed(f"the bill of materials does not fit CycloneDX 1.6: {str(problem)[:1000]}")


def write(name: str, python: str, out: Path) -> Path:
    """Write the document of one set for one Python."""
    libraries = read(LOCKS / f"{name}-{python}.txt")
    # offline bundles are of the device's set, and bring pip along
    tools = read(LOCKS / "pip.txt") if name == "device" else []
    text = json.dumps(bill(libraries, tools), indent=1) + "\n"
    validate(text)
    file = out / f"hobbit-edge-{version()}-{name}-python{python}.cdx.json"
    file.write_text(text, encoding="utf-8")
    say(f"{file.name}: {len(libraries)} libraries, CycloneDX 1.6")
    return file


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--set", choices=SETS, default="device")
    parser.add_argument("--python", choices=PYTHONS, default="3.12")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    given = parser.parse_args()
    sys.exit(exit_code(lambda: write(given.set, given.python, given.out)))
