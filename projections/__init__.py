"""Views: state, trees and statistics, rebuilt from facts on demand or kept up incrementally.

The map: `moment` (names of past moments), `projection` (the recipe), `stretches` and `fold` (how it
is followed, by all cores where the log is large), `session` (SessionState), `branches`
(BranchTree), `statistics` (Statistics), `catalog` (session lists), `diff`, `blame`, `shelf` and
`engine` (Views: kept beside the log, caught up on read). Views know facts; facts know nothing of
views.
"""

from .blame import Blame, BlamedMessage, Origin, blame
from .branches import BranchTree, Merge, Node
from .catalog import CatalogRow, SessionPage
from .diff import Change, Diff, diff
from .engine import Views
from .fold import fold
from .projection import Projection
from .session import SessionState
from .statistics import Statistics, ToolUse

__all__ = [
    "Blame",
    "BlamedMessage",
    "BranchTree",
    "CatalogRow",
    "Change",
    "Diff",
    "Merge",
    "Node",
    "Origin",
    "Projection",
    "SessionPage",
    "SessionState",
    "Statistics",
    "ToolUse",
    "Views",
    "blame",
    "diff",
    "fold",
]
