"""Views: state, trees and statistics, rebuilt from facts on demand or kept up incrementally.

The map: `projection` (the recipe and its fold), `session` (SessionState), `branches`
(BranchTree), `statistics` (Statistics), `catalog` (session lists), `diff`, `blame`, `engine`
(Views: kept beside the log, caught up on read). Views know facts; facts know nothing of views.
"""
