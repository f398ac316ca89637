"""The exception tree. Library code raises these; command-line code prints them and picks the exit code.

HobbitError
├── ConfigError       a flag, profile, environment variable or model option is wrong        (exit 78)
├── BundleError       a bundle or checkpoint does not hold what its format promises         (exit 78)
├── BudgetError       the request does not fit the memory (or disk) it was given            (exit 78)
├── RequestError      one request asks for what this engine cannot do (context, sampling)   (exit 2)
│   └── UnfitBundleError   the bundle's fault, found out when a request needed it           (exit 78)
├── HubError          a hub or server does not send or take a model; what was done is kept  (exit 1)
├── DeviceError       the board, a driver or an instruction set is missing                  (exit 1)
└── ExpertReadError   reading an expert failed while running; the engine stays usable       (exit 1)

Messages read: *where: what, expected, got. What to do.*
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HobbitError(Exception):
    """Base of every error this project raises on purpose."""

    exit_code = 1


class ConfigError(HobbitError):
    """A flag, profile value, environment variable or model option is wrong or unsupported."""

    exit_code = 78


class BundleError(HobbitError):
    """A bundle or checkpoint is damaged, incomplete or of an unknown version."""

    exit_code = 78


class BudgetError(HobbitError):
    """Something does not fit into the memory or disk space it was given."""

    exit_code = 78


class HubError(HobbitError):
    """A hub or a server does not send or take a model: no answer, or not the one that was asked for."""


class RequestError(HobbitError):
    """A single request cannot be served as asked; the engine is unaffected."""

    exit_code = 2


class UnfitBundleError(RequestError):
    """A request cannot be served because of what the bundle holds: its template, its tokenizer, its weights."""

    exit_code = 78


class ContextExceededError(RequestError):
    """A prompt, or what is to follow it, does not fit the context."""


class DeviceError(HobbitError):
    """The device lacks something the chosen backend needs."""


class ExpertReadError(HobbitError):
    """An expert could not be read from the drive while running."""


class ExpertRecordError(ExpertReadError):
    """A record was read as it was written, and is not the one the bundle says it is."""

    exit_code = 78


class ExpertTransferError(ExpertReadError):
    """An expert was read, but could not be brought to where it is computed."""


def is_failure(err: BaseException) -> bool:
    """Whether what a library raised is a failure, not an interrupt: a panic of one in Rust is no `Exception`."""
    return isinstance(err, Exception) or type(err).__name__ == "PanicException"


_LONGEST_NAME = 64


def missing_extension(package: str, err: ImportError) -> str:
    """Say that a package's native code is not there, and how to get it."""
    return (
        f"{package}: the native extension '_native' is missing or does not load ({err}). "
        "Build it with: pip install -e . (needs a C++17 compiler)"
    )


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Return `` Did you mean 'x'?`` for the closest known name, or an empty string.

    Args:
        name: what was written.
        known: what there is.
        prefix: all names begin with it, so it says nothing about closeness.
    """
    close = difflib.get_close_matches(name.removeprefix(prefix), [k.removeprefix(prefix) for k in known], n=1)
    return f" Did you mean {prefix + close[0]!r}?" if close else ""
