"""The expert files the store's tests read."""

from __future__ import annotations

from pathlib import Path

import pytest
from expert_files import make_bundle

from edge_runtime.bundle.bundle import Bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path)
