"""Where caches lie on disk: beside the log, one directory of each kind for each erasure count.

Invariants: what was kept before an erasure lies where nobody looks after it, and is deleted by
every process that notices; nobody deletes what belongs to a newer count than it knows.
"""

import shutil
from pathlib import Path

SNAPSHOTS, VIEWS = "snapshots", "views"


def cache_directory(store: Path, kind: str, erasures: int) -> Path:
    """Return the directory of SNAPSHOTS or VIEWS in a store whose erasure count is this."""
    return store / (f"{kind}-{erasures}" if erasures else kind)


def drop_stale(store: Path, erasures: int) -> None:
    """Delete the caches of all counts below this; what can't be deleted now goes another time."""
    for kind in (SNAPSHOTS, VIEWS):
        for path in store.glob(f"{kind}*"):
            count = path.name.removeprefix(kind).removeprefix("-") or "0"
            if count.isdigit() and int(count) < erasures:
                shutil.rmtree(path, ignore_errors=True)
