"""What hostile tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from bundle_copies import copy_of


@pytest.fixture
def bundle(model_bundle: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged; large files are linked."""
    return copy_of(model_bundle, tmp_path / "bundle")
