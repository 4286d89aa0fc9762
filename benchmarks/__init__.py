"""Benchmarks: our figures beside each installed peer's and the physical limit's, from one run.

The map: `data` (the bytes that everybody gets), `harness` (interleaved rounds, medians, what is
to reach), `awake` and `beside` (a machine that does not doze off, and where on it a lone caller
runs), `ours` and `peers/` (contenders that do the same work), one file per benchmark, `report` and
`plots` (what people look at), `__main__` (the command).

Honest by construction: same durability class only, set-up and warm-up outside the clock, our
figures by the public API with its defaults, and a benchmark that can't run is reported missing.
"""

NAMES = (
    "append_one",
    "append_concurrent",
    "append_bulk",
    "import_real",
    "replay_all",
    "statistics_rebuild",
    "state_now",
    "state_at",
    "state_full",
    "branch",
    "views_catch_up",
    "disk",
    "open",
    "memory",
    "growth",
    "verify",
    "sessions",
)
"""Every benchmark, in the order of docs/performance.md; each is the module of that name."""
