"""The slack between the target and the proxy that training uses: runs on only one frontier."""

from dataclasses import dataclass

from prolu_eval.analysis.groups import Group
from prolu_eval.analysis.pareto import is_nondominated

TARGET, PROXY = ("l0", "ce_degradation"), ("l1", "mse")


@dataclass(frozen=True)
class Slack:
    """Names of runs on the frontier of the target alone, of the proxy alone, and of both."""

    target: tuple[str, str]
    proxy: tuple[str, str]
    on_target_only: list[str]
    on_proxy_only: list[str]
    on_both: list[str]


def slack(group: Group, target: tuple[str, str] = TARGET, proxy: tuple[str, str] = PROXY) -> Slack:
    """Compare a group's frontier over the target metrics with that over the proxy ones.

    Raises:
        UsageError: if a metric is unknown or has no better direction.
    """
    names = group.table["name"]
    wanted, trained = is_nondominated(group.table, *target), is_nondominated(group.table, *proxy)
    return Slack(
        target,
        proxy,
        names[wanted & ~trained].tolist(),
        names[trained & ~wanted].tolist(),
        names[wanted & trained].tolist(),
    )
