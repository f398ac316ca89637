"""`hobbit-lm-eval`: the command of lm-evaluation-harness, with the model `hobbit` besides its own.

Releases of the harness up to 0.4.13 know the models of a table of their own, and look nowhere else; so its command has
to be started by somebody who has registered another. Later ones find it by an entry point (docs/adr/0165).
"""

from __future__ import annotations

from edge_runtime.base.ending import exit_code, say
from edge_runtime.base.errors import ConfigError, HobbitError
from edge_runtime.base.extras import install_extra


def require() -> None:
    """Import the harness and register the model.

    Raises:
        ConfigError: the harness is not installed.
    """
    try:
        import edge_runtime.lab.harness.model  # noqa: F401 - registers itself
    except ModuleNotFoundError as err:
        if err.name and err.name.partition(".")[0] in ("lm_eval", "tqdm"):
            raise ConfigError(f"lm_eval is not installed. {install_extra('lm-eval')}") from err
        raise


def main() -> int:
    """Run the harness' command."""
    return exit_code("hobbit-lm-eval", _command)


def _command() -> int:
    try:
        require()
        from lm_eval.__main__ import cli_evaluate

        cli_evaluate()
    except HobbitError as err:
        say(f"hobbit-lm-eval: {err}")
        return err.exit_code
    return 0
