"""Leaked or not. Without controls no error rate can be claimed, and none is."""

from finf_core.scores import Floats
from finf_core.spec import RankSpec

NO_ERROR_RATE = (
    "No control queries were given, so no error rate is claimed: the threshold is a convention, between an exact copy "
    "(1.00) and the largest ratios seen for unrelated rows. It finds copies, not rewordings; read the rows before you "
    "act."
)


def verdict_rule(rank: RankSpec) -> str:
    return f"leaked when the largest mirror ratio is at least {rank.leaked_from:.2f}"


def decide(max_mirror_ratio_Q: Floats, rank: RankSpec) -> list[bool]:
    """The verdict of each query; a query without any finite ratio (NaN) is not called leaked."""
    return [bool(ratio >= rank.leaked_from) for ratio in max_mirror_ratio_Q]
