"""The command `eventstore`: everything the store does, from a terminal or a script.

The map, from the ground up:

    looks      drawing charts trees piped: how things look in 80 columns, or in a pipe
    frame      terminal (streams, store, progress, JSON) spoken (words) app (options, exit codes)
    commands   reads views writes audit erasure transfer care
               sessions repl demo

Invariants: stdout carries answers, stderr remarks and errors; with `--json` every answer is one
JSON document or JSON lines; reading never makes a store.
"""

from . import (  # noqa: F401 - they register commands
    audit,
    care,
    demo,
    erasure,
    reads,
    repl,
    sessions,
    transfer,
    views,
    writes,
)
from .app import main, run

__all__ = ["main", "run"]
