"""The model that `hobbit doctor` runs where no bundle is named: unpacked from the package into a folder of its own.

`tools/doctor_bundle.py` makes it: random weights, 450 KiB, with the exporter's reference logits.
"""

from __future__ import annotations

import importlib.resources
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ARCHIVE = "tiny_model.zip"


@contextmanager
def tiny_model() -> Iterator[Path]:
    """Yield a bundle that is gone afterwards."""
    archive = importlib.resources.files("edge_runtime.lab.doctor").joinpath(_ARCHIVE)
    with tempfile.TemporaryDirectory(prefix="hobbit-doctor-") as folder:
        with archive.open("rb") as file, zipfile.ZipFile(file) as packed:
            packed.extractall(folder)
        yield Path(folder)
