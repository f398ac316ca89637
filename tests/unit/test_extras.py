"""What is missing is named with a command that finds it."""

from __future__ import annotations

import shlex
import sys
from importlib.metadata import requires

import pytest

from edge_runtime.base.extras import install_extra, pip_install


@pytest.mark.parametrize("extra", ["export", "serve", "bench"])
def test_the_libraries_of_an_extra_are_named_one_by_one(extra):
    said, *words = shlex.split(install_extra(extra).removeprefix("Install it: "))
    assert (said, words[:3]) == (sys.executable, ["-m", "pip", "install"])
    declared = {
        line.partition(";")[0].strip() for line in requires("hobbit-edge") if f"'{extra}'" in line.replace('"', "'")
    }
    assert sorted(words[3:]) == sorted(name.replace(" ", "") for name in declared) != []
    assert not any("hobbit" in word for word in words[3:])


def test_an_environment_without_pip_is_installed_into_from_outside(monkeypatch):
    monkeypatch.setattr("edge_runtime.base.extras.find_spec", lambda name: None)
    assert pip_install("a>=1") == f"Install it: python3 -m pip --python {sys.executable} install 'a>=1'"


def test_requirements_are_quoted_for_a_shell():
    assert pip_install("a>=1", "b").endswith("-m pip install 'a>=1' b")
