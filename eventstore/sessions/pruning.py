"""Pruning: the policies that say which sessions and messages go, each a small value.

    sessions   LRU, LFU, TTL, Size                        archived or deleted (eviction.py)
    messages   KeepCount, MessageTTL, TotalMessages,      hidden, or summarised (trimming.py,
               Compact, Duplicates                        semantic.py)

    plan = LRU(max_sessions=10_000).plan(store, views)    nothing is written yet
    print(plan)                                           what would go, and why
    plan.apply(store)                                     facts; what moved on since is refused

Invariants: a policy writes nothing, its plan does (plans.py); what is exempt stays (units.py);
once a plan was applied to the store it was made from, its limits hold, or a remark says by how
much they don't. What pruning did in all, the statistics of the store know: they count its facts.
"""

from .eviction import LFU, LRU, TTL, End, Size
from .plans import Drop, Outcome, Plan, Refusal, Step
from .policies import Policy, SessionPolicy, Time
from .semantic import Duplicates
from .trimming import PRESERVED, Compact, KeepCount, MessageTTL, TotalMessages

__all__ = [
    "LFU",
    "LRU",
    "PRESERVED",
    "STRATEGIES",
    "TTL",
    "Compact",
    "Drop",
    "Duplicates",
    "End",
    "KeepCount",
    "MessageTTL",
    "Outcome",
    "Plan",
    "Policy",
    "Refusal",
    "SessionPolicy",
    "Size",
    "Step",
    "Time",
    "TotalMessages",
]

STRATEGIES: dict[str, type[Policy]] = {
    "lru": LRU,
    "lfu": LFU,
    "ttl": TTL,
    "size": Size,
    "semantic": Duplicates,
}
"""The policies by the names that settings and the command line use."""
