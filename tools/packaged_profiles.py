"""Write profiles/packaged.json from the YAML beside it: `python tools/packaged_profiles.py [--check]`.

The runtime reads the JSON, so that starting does not load a YAML parser.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

FOLDER = Path(__file__).parents[1] / "profiles"


def fresh() -> str:
    """Return the text of the JSON file."""
    found = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.yaml"))}
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    """Write the file, or say whether it is up to date."""
    path, text = FOLDER / "packaged.json", fresh()
    if "--check" in sys.argv:
        return int(not path.exists() or path.read_text(encoding="utf-8") != text)
    path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
