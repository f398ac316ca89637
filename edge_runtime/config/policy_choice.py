"""Which policy the options choose: `policy` itself, or an option that is a parameter of one."""

from __future__ import annotations

from edge_runtime.base.errors import ConfigError
from edge_runtime.config.option import Option
from edge_runtime.config.options import BY_NAME
from edge_runtime.config.registered import BASE_PARAM, BUDGET_PARAM, POLICY_WITH_BUDGET
from edge_runtime.config.sources import Sources

POLICY_PARAMETERS = ("max_kld", "base_resident")
"""Options that stand for parameters of that policy, and so choose it."""


def policy_with_budget(sources: Sources) -> str:
    """`policy`, with `max_kld` and `base_resident` in it, which select the one with a budget; the stronger counts.

    Raises:
        ConfigError: one source asks for a budget or a base and another policy, or for two budgets.
    """
    policy = str(sources.pick(BY_NAME["policy"]))
    budget, keeps_base = (sources.pick(BY_NAME[name]) for name in POLICY_PARAMETERS)
    if budget is not None:
        policy = _with_parameter(policy, sources, BY_NAME["max_kld"], f"{BUDGET_PARAM}={budget!r}")
    return _with_parameter(policy, sources, BY_NAME["base_resident"], f"{BASE_PARAM}=true") if keeps_base else policy


def _with_parameter(policy: str, sources: Sources, option: Option, given: str) -> str:
    """Return the text of a policy with the parameter an option stands for, unless that policy's source is stronger."""
    asked = BY_NAME["policy"]
    rank, own_rank = sources.rank(asked), sources.rank(option)
    if rank < own_rank:
        return policy
    name, _, params = policy.partition(":")
    where = sources.said(option).where
    if name != POLICY_WITH_BUDGET and rank == own_rank:
        what = "budget" if option.name == "max_kld" else "base"
        raise ConfigError(
            f"{where}: it is the {what} of {POLICY_WITH_BUDGET}, but the policy is {name!r}. Give one of them."
        )
    if name != POLICY_WITH_BUDGET:
        name, params = POLICY_WITH_BUDGET, ""
    param = given.partition("=")[0]
    if param in (each.partition("=")[0] for each in params.split(",")):
        raise ConfigError(f"{where}: the policy's {param} is given as well. Give one of them.")
    return f"{name}:{','.join(filter(None, [params, given]))}"
